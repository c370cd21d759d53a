-- ARGV the policy as JSON, '' for none. Returns whether it is another one now.
local before = redis.call('HGET', ABOUT, 'policy') or ''
if ARGV[1] == '' then
  redis.call('HDEL', ABOUT, 'policy')
else
  redis.call('HSET', ABOUT, 'policy', ARGV[1])
end
return before ~= ARGV[1] and 1 or 0
