-- Replies the offset as text, or false.
return each(1, 0, function(k)
  return redis.call('GET', KEYS[k + 1])
end)
