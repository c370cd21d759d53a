-- A durable call is about to start. Its mark is "s" when it had started, "c" when it was cancelled before. ARGS: how long the
-- mark is kept. Replies whether it may start.
return each(1, 1, function(k, a)
  local mark = redis.call('SET', KEYS[k + 1], 's', 'NX', 'GET', 'PX', ARGS[a + 1])
  if mark == 's' then
    redis.call('PEXPIRE', KEYS[k + 1], ARGS[a + 1])
  end
  return mark ~= 'c'
end)
