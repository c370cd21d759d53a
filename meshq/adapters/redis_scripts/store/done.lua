-- Keep the answer for a key. ARGS: owner, status, answer ("" if only the status is kept), window. Replies whether it was done:
-- not by who has lost its claim.
return each(1, 4, function(k, a)
  local key = KEYS[k + 1]
  if redis.call('HGET', key, 'owner') ~= ARGS[a + 1] then
    return false
  end
  redis.call('HDEL', key, 'owner')
  redis.call('HSET', key, 'status', ARGS[a + 2])
  if ARGS[a + 3] ~= '' then
    redis.call('HSET', key, 'answer', ARGS[a + 3])
  end
  redis.call('PEXPIRE', key, ARGS[a + 4])
  return true
end)
