-- A started call has its result: keep its mark (start.lua) no longer than ARGS says.
return each(1, 1, function(k, a)
  return redis.call('GET', KEYS[k + 1]) == 's' and redis.call('PEXPIRE', KEYS[k + 1], ARGS[a + 1], 'LT') == 1
end)
