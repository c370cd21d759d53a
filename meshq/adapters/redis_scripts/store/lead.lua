-- Be, or stay, the one who does something. ARGS: owner, how long. Replies whether it is this owner now.
return each(1, 2, function(k, a)
  local holder = redis.call('GET', KEYS[k + 1])
  if holder and holder ~= ARGS[a + 1] then
    return false
  end
  redis.call('SET', KEYS[k + 1], ARGS[a + 1], 'PX', ARGS[a + 2])
  return true
end)
