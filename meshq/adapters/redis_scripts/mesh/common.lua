-- Common to every script on the mesh as a whole. Its keys share one hash slot:
--   state     hash    rev: the id of the last change; epoch: of these data; sweep: when leases are to be looked at next, lowered: the
--                     earliest such time that was named since that began; holding: so many leases are over that nobody is given up;
--                     given, given:at: how many were given up of late, and when last
--   log       stream  the changes. Their ids are <revision>-<random>: a reader that finds the id of its picture in the log knows
--                     that what follows is all that happened since. A failover that lost it, or trimming, shows by its absence.
--                     `what` in an entry names, with spaces between, each <service>/<id> that changed, <service>/ if only what
--                     is known of the service did, and <service> if all of it may have
--   services  set     those ever seen
-- A revision is the time in milliseconds, so that after a loss of data none is given out again.

local STATE, LOG, SERVICES = KEYS[1], KEYS[2], KEYS[3]
local LOGGED = 10000 -- changes that the log holds, or somewhat more
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)

local function int(number)
  return string.format('%.0f', number)
end

local function last()
  return redis.call('HGET', STATE, 'rev') or '0-0'
end

local function number(field)
  return tonumber(redis.call('HGET', STATE, field))
end

-- `epoch` if these data have none yet.
local function begin(epoch)
  if redis.call('HEXISTS', STATE, 'epoch') == 0 then
    redis.call('HSET', STATE, 'epoch', epoch)
  end
end

-- Count a change; `what` as in the log.
local function note(op, what, random)
  local revision = math.max((tonumber(string.match(last(), '^%d+')) or 0) + 1, NOW)
  local id = int(revision) .. '-' .. random
  redis.call('HSET', STATE, 'rev', id)
  local function add()
    return redis.pcall('XADD', LOG, 'MAXLEN', '~', LOGGED, id, 'op', op, 'what', what)
  end
  if type(add()) == 'table' then -- an error: the log is ahead of the revision, so it is of before a loss of data
    redis.call('DEL', LOG)
    add()
  end
  for name in string.gmatch(what, '([^%s/]+)%S*') do
    redis.call('SADD', SERVICES, name)
  end
  return id
end

-- Leases are to be looked at no later than at `due`.
local function look_by(due)
  for _, field in ipairs({'sweep', 'lowered'}) do
    local known = number(field)
    if not known or due < known then
      redis.call('HSET', STATE, field, int(due))
    end
  end
end
