-- ARGS: the offset.
return each(1, 1, function(k, a)
  redis.call('SET', KEYS[k + 1], ARGS[a + 1])
  return true
end)
