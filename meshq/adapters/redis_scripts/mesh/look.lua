-- ARGV epoch, random (for the first, and for a change), how long one may take to look at the leases, service ('' for none), base.
-- A service that is not known here although it renews was lost with the last writes before a failover: then it is a change.
-- `base` is '-', or the id of a picture ('' for none): what is to be read to have the present one.
-- Replies {now, id of the last change, epoch, whether nobody is given up, milliseconds until leases are to be looked at (0: now, by
-- who asked, -1: never), whether it is all services, what}.
begin(ARGV[1])
if ARGV[4] ~= '' and redis.call('SISMEMBER', SERVICES, ARGV[4]) == 0 then
  note('found', ARGV[4], ARGV[2])
  look_by(NOW)
end

local sweep = number('sweep')
if not sweep and redis.call('EXISTS', SERVICES) == 1 then
  sweep = NOW
end
local left = sweep and math.max(0, sweep - NOW) or -1
if left == 0 then -- whoever takes too long loses the turn to the next
  redis.call('HSET', STATE, 'sweep', int(NOW + ARGV[3]))
  redis.call('HDEL', STATE, 'lowered')
end

local MOST = 1000 -- changes that are gone through; with more, all is read
local base, whole, what = ARGV[5], 1, {}
if base ~= '-' then
  local changes = base ~= '' and redis.call('XRANGE', LOG, base, '+', 'COUNT', MOST) or {}
  if changes[1] and changes[1][1] == base and #changes < MOST then
    whole = 0
    local seen = {}
    for i = 2, #changes do
      for name in string.gmatch(changes[i][2][4] or '', '%S+') do
        if not seen[name] then
          seen[name] = true
          what[#what + 1] = name
        end
      end
    end
  else
    what = redis.call('SMEMBERS', SERVICES)
  end
end
local holding = redis.call('HEXISTS', STATE, 'holding')
return {NOW, last(), redis.call('HGET', STATE, 'epoch'), holding, left, whole, what}
