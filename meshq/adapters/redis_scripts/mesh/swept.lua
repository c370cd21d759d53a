-- All leases were looked at. ARGV epoch, random, what changed, when something changes next by itself (-1 for never),
-- whether nobody is to be given up. Returns the id of the last change.
local LONGEST = 60000 -- however far off the next change is: clocks may be set, and data be lost
begin(ARGV[1])
local due = tonumber(ARGV[4])
due = math.min(due < 0 and math.huge or math.max(due, NOW + 1), NOW + LONGEST, number('lowered') or math.huge)
redis.call('HSET', STATE, 'sweep', int(due))
local other
if ARGV[5] == '1' then
  other = redis.call('HSETNX', STATE, 'holding', 1) == 1
else
  other = redis.call('HDEL', STATE, 'holding') == 1
end
if other or ARGV[3] ~= '' then
  return note('sweep', ARGV[3], ARGV[2])
end
return last()
