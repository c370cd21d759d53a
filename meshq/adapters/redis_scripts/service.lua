-- Common to every script on one service. Its keys share one hash slot:
--   inst    hash   <id> the record (msgpack), and of the same instance <id>:gen, <id>:state, <id>:load, and <id>:out
--                  ("suspect" or "down") once its lease ran out
--   lease   zset   <id> by the time, in ms, at which its lease runs out
--   ready   zset   <major>:<version's order>:<version>:<id> of what is ready, all of score 0: the first of a major is the
--                  lowest, because the order of versions is that of the bytes
--   majors  hash   <major>: the lowest version that was ready when any was last
-- Time is this server's and nobody else's. Numbers become text by int(): tostring() would round a time.

local INST, LEASE, READY, MAJORS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)

local function int(number)
  return string.format('%.0f', number)
end

local function get(id, name)
  return redis.call('HGET', INST, id .. ':' .. name)
end

-- Enter the instance among the ready ones of its majors, or take it out, and see which version is the lowest now.
local function place(id, ready)
  local known, record = pcall(cmsgpack.unpack, redis.call('HGET', INST, id) or '')
  if not known or type(record) ~= 'table' or type(record.majors) ~= 'table' or not (record.order and record.version) then
    return -- not written by this version of meshq
  end
  for _, major in ipairs(record.majors) do
    local prefix = string.format('%010d', major)
    local member = table.concat({prefix, record.order, record.version, id}, ':')
    if ready then
      redis.call('ZADD', READY, 0, member)
    else
      redis.call('ZREM', READY, member)
    end
    local lowest = redis.call('ZRANGEBYLEX', READY, '[' .. prefix .. ':', '(' .. prefix .. ';', 'LIMIT', 0, 1)[1]
    if lowest then
      redis.call('HSET', MAJORS, int(major), string.match(lowest, '^[^:]*:[^:]*:([^:]*):'))
    else
      redis.call('HSETNX', MAJORS, int(major), record.version)
    end
  end
end

local function forget(id)
  place(id, false)
  redis.call('HDEL', INST, id, id .. ':gen', id .. ':state', id .. ':load', id .. ':out')
  redis.call('ZREM', LEASE, id)
end

-- 'ok', 'unknown' or 'fenced': whether whoever has this generation still owns the instance.
local function standing(id, generation)
  local current = get(id, 'gen')
  if not current then
    return 'unknown'
  end
  return current == generation and 'ok' or 'fenced'
end
