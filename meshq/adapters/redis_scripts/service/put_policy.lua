-- ARGV the policy as JSON, '' for none. Replies {now, whether the mesh is to be told}.
local before = redis.call('HGET', ABOUT, 'policy') or ''
if ARGV[1] == '' then
  redis.call('HDEL', ABOUT, 'policy')
else
  redis.call('HSET', ABOUT, 'policy', ARGV[1])
end
if before ~= ARGV[1] then
  unsaid('')
end
return {NOW, pending('')}
