-- Cancel a durable call that has not started: marks as in start.lua. ARGS: how long the mark is kept. Replies whether it never
-- will start.
return each(1, 1, function(k, a)
  return redis.call('SET', KEYS[k + 1], 'c', 'NX', 'GET', 'PX', ARGS[a + 1]) ~= 's'
end)
