-- Common to every script on one service. Its keys share one hash slot:
--   inst     hash   <id> the record (msgpack: what it said of itself when it registered), and of the same instance
--                   <id>:status  see read(); <id>:meta its metadata (msgpack), where there are any
--                   <id>:wants   msgpack of {own = pause, operator = pause, drain = true}, a pause being {reason, until};
--                                where there are any
--                   <id>:lost    a failover lost what was written last: the owner is to say everything again
--   lease    zset   <id> by the time at which its lease runs out; those that were given up are not in it
--   gone     zset   <id> by the time at which it was given up
--   ready    zset   <major>:<version's order>:<version>:<id> of what is ready, all of score 0: the first of a major is the
--                   lowest, because the order of versions is that of the bytes
--   ends     zset   <id> by the time at which the next of its pauses ends
--   about    hash   <major>: the lowest version that was ready when any was last; policy: the route policy (JSON);
--                   run, run:at, run:since: see guarded(); returned: when a lease was renewed that was over
--   unsaid   zset   <id>, or '' for all of the service, by the time of a change that the mesh may not have been told of yet
--   callers  hash   <major> <caller>: when that was last said
--   reports  hash   <id>: when it last reported for scaling, a space, the report (meshq/core/reports.py)
-- Time is this server's and nobody else's, in milliseconds. Numbers become text by int(): tostring() would round a time.

local INST, LEASE, GONE, READY, ENDS, ABOUT, CALLERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local UNSAID, REPORTS = KEYS[8], KEYS[9]
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)
local RUN_CHECKED = 5000 -- how long a look at the server's run id holds, while nobody is to be given up

local function int(number)
  return string.format('%.0f', number)
end

-- A table that was packed; an empty one for what is none.
local function unpacked(text)
  local known, content = pcall(cmsgpack.unpack, text or '')
  return known and type(content) == 'table' and content or {}
end

-- --- one instance ------------------------------------------------------------------------------------------------------

-- Its status: the generation, the state that it says it is in, how often it was written to, its load, how long its lease is, and
-- `out`: 0, then 1 once its lease was seen to have run out, then the time at which it ran out once it was given up. Nil when it is
-- unknown, or not of this version of meshq.
local function read(id)
  local text = redis.call('HGET', INST, id .. ':status') or ''
  local generation, state, writes, load, ttl, out = string.match(text, '^(%d+) (%l+) (%d+) (%d+ %d+) (%d+) (%d+)$')
  if not generation then
    return nil
  end
  return {
    generation = tonumber(generation), state = state, writes = tonumber(writes), load = load, ttl = tonumber(ttl),
    out = tonumber(out),
  }
end

local function write(id, status)
  local words = {
    int(status.generation), status.state, int(status.writes), status.load, int(status.ttl), int(status.out),
  }
  redis.call('HSET', INST, id .. ':status', table.concat(words, ' '))
end

local function wants(id)
  local wanted = unpacked(redis.call('HGET', INST, id .. ':wants'))
  for _, who in ipairs({'own', 'operator'}) do
    local pause = wanted[who]
    if type(pause) ~= 'table' or pause['until'] and type(pause['until']) ~= 'number' then
      wanted[who] = nil
    end
  end
  return wanted
end

-- The mesh is to be told of a change; said.lua says that it was. Who gets no answer, or does not live to tell, leaves it to the next
-- who does something to it or looks at the leases.
local function unsaid(id)
  redis.call('ZADD', UNSAID, int(NOW), id)
end

-- Whether it is still to be told, as 1 or 0.
local function pending(id)
  return redis.call('ZSCORE', UNSAID, id) and 1 or 0
end

local function holds(pause)
  return pause and (not pause['until'] or NOW < pause['until'])
end

-- Keep what is wanted of it, without pauses that are over. Returns when the next pause ends, or -1.
local function want(id, wanted)
  local ends
  for _, who in ipairs({'own', 'operator'}) do
    local pause = wanted[who]
    if not holds(pause) then
      wanted[who] = nil
    elseif pause['until'] then
      ends = math.min(ends or pause['until'], pause['until'])
    end
  end
  if next(wanted) then
    redis.call('HSET', INST, id .. ':wants', cmsgpack.pack(wanted))
  else
    redis.call('HDEL', INST, id .. ':wants')
  end
  if ends then
    redis.call('ZADD', ENDS, int(ends), id)
  else
    redis.call('ZREM', ENDS, id)
  end
  return ends or -1
end

-- Enter the instance among the ready ones of its majors, or take it out, and see which version is the lowest now. A major that is
-- not known (it may have been retired) is from now on only if the instance `serves` it.
local function place(id, ready, serves)
  local record = unpacked(redis.call('HGET', INST, id))
  local majors, known = record.majors, type(record.order) == 'string' and type(record.version) == 'string'
  if type(majors) ~= 'table' or not known then
    return -- not written by this version of meshq
  end
  for _, major in ipairs(majors) do
    if type(major) ~= 'number' then
      return
    end
  end
  for _, major in ipairs(majors) do
    local prefix = string.format('%010d', major)
    local member = table.concat({prefix, record.order, record.version, id}, ':')
    if ready then
      redis.call('ZADD', READY, 0, member)
    else
      redis.call('ZREM', READY, member)
    end
    local lowest = redis.call('ZRANGEBYLEX', READY, '[' .. prefix .. ':', '(' .. prefix .. ';', 'LIMIT', 0, 1)[1]
    if lowest then
      redis.call('HSET', ABOUT, int(major), string.match(lowest, '^[^:]*:[^:]*:([^:]*):'))
    elseif serves then
      redis.call('HSETNX', ABOUT, int(major), record.version)
    end
  end
end

-- Place it by what is known of it. Who was given up serves nothing.
local function settle(id, status)
  local wanted = wants(id)
  local live = status.out == 0 and tonumber(redis.call('ZSCORE', LEASE, id) or 0) > NOW
  place(id, live and status.state == 'ready' and not holds(wanted.own) and not holds(wanted.operator), status.out <= 1)
end

local function forget(id)
  place(id, false)
  redis.call('HDEL', INST, id, id .. ':status', id .. ':meta', id .. ':wants', id .. ':lost')
  redis.call('ZREM', LEASE, id)
  redis.call('ZREM', GONE, id)
  redis.call('ZREM', ENDS, id)
  redis.call('HDEL', REPORTS, id)
end

-- 'ok', 'unknown' or 'fenced', and its status: whether `owner`, `<generation> <process>`, still owns the instance. Everybody does
-- who is '': an operator. A generation that is newer than the one known was lost in a failover. One that is older, of the same
-- process, is followed by a registration that was executed long after it was sent, so that the process does not know of it.
local function standing(id, owner)
  local status = read(id)
  local given, process = string.match(owner, '^(%d+) (%x+)$')
  given = tonumber(given)
  if not status or given and given > status.generation then
    return 'unknown'
  end
  if given and given < status.generation then
    return unpacked(redis.call('HGET', INST, id)).process == process and 'unknown' or 'fenced', status
  end
  return 'ok', status
end

-- Run by whoever owns the instance, or by an operator: `change` gets its id and status and returns whether that changed it, and
-- when it changes next by itself, if it does. Replies {standing, now, whether the mesh is to be told, how often it was written to,
-- when next}.
local function by_owner(change)
  local id = ARGV[1]
  local answer, status = standing(id, ARGV[2])
  if answer ~= 'ok' then
    return {answer, NOW, 0, 0, -1}
  end
  local changed, due = change(id, status)
  if changed then
    status.writes = status.writes + 1
    write(id, status)
    settle(id, status)
    unsaid(id)
  end
  return {answer, NOW, pending(id), status.writes, due or -1}
end

-- --- the server --------------------------------------------------------------------------------------------------------

-- Until when nobody is to be given up because the server was restarted or replaced: all have to renew first. It shows by the run
-- id, kept in `run`; `run:at` is when that was looked at, `run:since` when it was found to be another. A look costs as much as a
-- renewal, so one that is not `sure` may go by an earlier one. Without the right to INFO nothing is known, and nothing guarded.
local function guarded(guard, sure)
  local known = redis.call('HMGET', ABOUT, 'run', 'run:at', 'run:since')
  local since = tonumber(known[3]) or 0
  if sure or not known[2] or NOW >= tonumber(known[2]) + RUN_CHECKED or NOW < tonumber(known[2]) then
    local info = redis.pcall('INFO', 'server')
    local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)')
    if run then
      if known[1] and known[1] ~= run then
        since = NOW
      end
      redis.call('HSET', ABOUT, 'run', run, 'run:at', int(NOW), 'run:since', int(since))
    end
  end
  return since == 0 and 0 or since + guard
end
