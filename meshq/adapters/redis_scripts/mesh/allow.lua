-- How many more may be given up now. ARGV how many could be, how many may be within a second. However many ask, no more than that go
-- in any second: they are counted until a second has passed without one.
local SECOND = 1000
local wanted, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = number('given:at') or 0
local given = NOW < at + SECOND and NOW >= at and number('given') or 0
local allowed = math.max(0, math.min(wanted, most - given))
if allowed > 0 then
  redis.call('HSET', STATE, 'given', int(given + allowed), 'given:at', int(NOW))
end
return allowed
