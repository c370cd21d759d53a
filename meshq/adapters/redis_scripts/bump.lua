-- After a change that readers see. KEYS rev, log, services of the mesh; ARGV service, what happened, instance.
-- A revision is the time in milliseconds, so that after a loss of data none is given out again; the log's ids are the
-- revisions, so that a reader waits for what comes after its own.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local revision = math.max(tonumber(redis.call('GET', KEYS[1]) or 0) + 1, now)
local text = string.format('%.0f', revision)
redis.call('SET', KEYS[1], text)
redis.call('SADD', KEYS[3], ARGV[1])
local function add()
  return redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', 10000, text .. '-0', 'service', ARGV[1], 'op', ARGV[2], 'id', ARGV[3])
end
if type(add()) == 'table' then -- an error: the log is ahead of the revision, so it is of before a loss of data
  redis.call('DEL', KEYS[2])
  add()
end
return revision
