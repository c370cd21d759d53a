-- Give up a claim on a key. ARGS: owner.
return each(1, 1, function(k, a)
  local held = redis.call('HGET', KEYS[k + 1], 'owner') == ARGS[a + 1]
  if held then
    redis.call('DEL', KEYS[k + 1])
  end
  return held
end)
