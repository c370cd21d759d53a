-- What is known of a durable call. KEYS as in completed.lua. Replies false, or {called, status or false, whether the time of
-- its result is over, the result or false}.
return each(2, 0, function(k)
  local known = redis.call('HMGET', KEYS[k + 1], 'called', 'status', 'until')
  if not known[1] then
    return false
  end
  if not known[2] then
    return {known[1], false, false, false}
  end
  local over = now() >= tonumber(known[3])
  return {known[1], tonumber(known[2]), over, not over and redis.call('GET', KEYS[k + 2])}
end)
