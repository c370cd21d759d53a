-- ARGV major. Replies {whether nobody serves it, whether readers see a change, whether the service is known no more}.
local fields = redis.call('HGETALL', INST)
local there = 0
for i = 1, #fields, 2 do
  local id = fields[i]
  if not string.find(id, ':', 1, true) and not redis.call('ZSCORE', GONE, id) then
    there = there + 1
    local record = unpacked(fields[i + 1])
    if type(record.majors) ~= 'table' then
      return {0, 0, 0} -- another version's: it may serve it
    end
    for _, major in ipairs(record.majors) do
      if major == tonumber(ARGV[1]) then
        return {0, 0, 0}
      end
    end
  end
end
if redis.call('HDEL', ABOUT, ARGV[1]) == 0 then
  return {1, 0, 0}
end
local policy
for _, field in ipairs(redis.call('HKEYS', ABOUT)) do
  if tonumber(field) then
    return {1, 1, 0}
  end
  policy = policy or field == 'policy'
end
if there > 0 then
  return {1, 1, 0}
end
redis.call('DEL', INST, LEASE, GONE, READY, ENDS)
redis.call('HDEL', ABOUT, 'run', 'run:at', 'run:since')
return {1, 1, policy and 0 or 1}
