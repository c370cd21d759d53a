-- A durable call has its result. KEYS: of the call (accepted.lua), of its result. ARGS: called, status, result ("" if only the
-- status is kept), how long the result is kept, how long it is known that there was one. Replies whether it is the first.
return each(2, 5, function(k, a)
  local key, kept = KEYS[k + 1], ARGS[a + 4]
  if redis.call('HEXISTS', key, 'status') == 1 then
    return false
  end
  redis.call('HSET', key, 'called', ARGS[a + 1], 'status', ARGS[a + 2], 'until', int(now() + kept))
  redis.call('PEXPIRE', key, ARGS[a + 5])
  if ARGS[a + 3] ~= '' then
    redis.call('SET', KEYS[k + 2], ARGS[a + 3], 'PX', kept)
  end
  return true
end)
