-- A durable call is on its way. Its key is a hash: `called`, and once there is a result `status` and `until`, when its time is
-- over. ARGS: called, how long it is known.
return each(1, 2, function(k, a)
  local new = redis.call('HSETNX', KEYS[k + 1], 'called', ARGS[a + 1]) == 1
  if new then -- else the result was quicker
    redis.call('PEXPIRE', KEYS[k + 1], ARGS[a + 2])
  end
  return new
end)
