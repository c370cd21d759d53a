-- ARGV id, owner, metadata (packed, '' for none). Replies as by_owner does.
return by_owner(function(id)
  local field = id .. ':meta'
  if (redis.call('HGET', INST, field) or '') == ARGV[3] then
    return false
  end
  if ARGV[3] == '' then
    redis.call('HDEL', INST, field)
  else
    redis.call('HSET', INST, field, ARGV[3])
  end
  return true
end)
