-- ARGV how long an entry is kept, and, if something is to be entered: the caller, majors. Returns what is known, fields and times.
local keep = tonumber(ARGV[1])
for i = 3, #ARGV do
  redis.call('HSET', CALLERS, ARGV[i] .. ' ' .. ARGV[2], int(NOW))
end
if #ARGV > 1 then
  redis.call('PEXPIRE', CALLERS, int(keep))
end
local known, kept = redis.call('HGETALL', CALLERS), {}
for i = 1, #known, 2 do
  if NOW < tonumber(known[i + 1]) + keep then
    kept[#kept + 1], kept[#kept + 2] = known[i], known[i + 1]
  elseif #ARGV > 1 then
    redis.call('HDEL', CALLERS, known[i])
  end
end
return kept
