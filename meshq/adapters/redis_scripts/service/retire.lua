-- ARGV major. Replies {whether nobody serves it, whether the mesh is to be told, whether the service is known no more, now}.
local fields = redis.call('HGETALL', INST)
local there = 0
for i = 1, #fields, 2 do
  local id = fields[i]
  if not string.find(id, ':', 1, true) and not redis.call('ZSCORE', GONE, id) then
    there = there + 1
    local record = unpacked(fields[i + 1])
    if type(record.majors) ~= 'table' then
      return {0, 0, 0, NOW} -- another version's: it may serve it
    end
    for _, major in ipairs(record.majors) do
      if major == tonumber(ARGV[1]) then
        return {0, 0, 0, NOW}
      end
    end
  end
end
if redis.call('HDEL', ABOUT, ARGV[1]) == 0 then
  return {1, pending(''), 0, NOW}
end
unsaid('')
local policy
for _, field in ipairs(redis.call('HKEYS', ABOUT)) do
  if tonumber(field) then
    return {1, 1, 0, NOW}
  end
  policy = policy or field == 'policy'
end
if there > 0 then
  return {1, 1, 0, NOW}
end
redis.call('DEL', INST, LEASE, GONE, READY, ENDS, UNSAID, REPORTS)
unsaid('')
redis.call('HDEL', ABOUT, 'run', 'run:at', 'run:since', 'returned')
return {1, 1, policy and 0 or 1, NOW}
