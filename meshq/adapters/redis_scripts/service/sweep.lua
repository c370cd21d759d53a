-- What has changed by itself: pauses that ended, leases that ran out, instances that are down for long. ARGV guard, how long one
-- that was given up is kept. What was found is found again until it was said (said.lua). Replies {ids of which readers see a change
-- ('' for all of the service), leases (of those not given up), how many of them ran out, when something changes next by itself or
-- -1, whether the guard after a restart holds anybody, of those that could be given up: id, when the lease ran out, its ttl, ..., when
-- last a lease was renewed that was over (0: never), now}.
local MOST = 1000 -- of those that could be given up, in one reply
local guard, keep = tonumber(ARGV[1]), tonumber(ARGV[2])
local due

local function next_at(time)
  due = math.min(due or time, time)
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', ENDS, '-inf', int(NOW))) do
  want(id, wants(id))
  local status = read(id)
  if status then
    settle(id, status)
  end
  unsaid(id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', GONE, '-inf', int(NOW - keep))) do
  forget(id)
  unsaid(id)
end

local over = redis.call('ZRANGEBYSCORE', LEASE, '-inf', int(NOW), 'WITHSCORES')
local late = {}
for i = 1, #over, 2 do
  local id, deadline = over[i], tonumber(over[i + 1])
  local status = read(id)
  if not status then -- another version's, or nobody's
    if NOW >= deadline + keep then
      forget(id)
    end
  else
    if status.out == 0 then
      status.out = 1
      write(id, status)
      place(id, false)
      unsaid(id)
    end
    if NOW < deadline + status.ttl then
      next_at(deadline + status.ttl)
    elseif #late < 3 * MOST then
      late[#late + 1], late[#late + 2], late[#late + 3] = id, deadline, status.ttl
    end
  end
end

local held = 0
if #late > 0 then
  local till = guarded(guard, true)
  if NOW < till then
    next_at(till)
    late, held = {}, 1
  end
end
for _, key in ipairs({LEASE, ENDS}) do
  local first = redis.call('ZRANGEBYSCORE', key, '(' .. int(NOW), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then
    next_at(tonumber(first[2]))
  end
end
local oldest = redis.call('ZRANGE', GONE, 0, 0, 'WITHSCORES')
if oldest[2] then
  next_at(tonumber(oldest[2]) + keep)
end
local changed = redis.call('ZRANGEBYSCORE', UNSAID, '-inf', '+inf')
local returned = tonumber(redis.call('HGET', ABOUT, 'returned')) or 0
return {changed, redis.call('ZCARD', LEASE), #over / 2, due or -1, held, late, returned, NOW}
