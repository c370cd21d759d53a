-- The mesh was told of changes. ARGV until when, ids ('' for all of the service).
for i = 2, #ARGV do
  local at = tonumber(redis.call('ZSCORE', UNSAID, ARGV[i]))
  if at and at <= tonumber(ARGV[1]) then
    redis.call('ZREM', UNSAID, ARGV[i])
  end
end
return 1
