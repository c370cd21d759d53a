-- After a change that readers see. ARGV epoch, random, what happened, what changed, when some of it changes next by itself (-1 for
-- never), one that is known no more ('' for none). Returns the id of the change.
begin(ARGV[1])
local id = note(ARGV[3], ARGV[4], ARGV[2])
if tonumber(ARGV[5]) >= 0 then
  look_by(tonumber(ARGV[5]))
end
if ARGV[6] ~= '' then
  redis.call('SREM', SERVICES, ARGV[6])
end
return id
