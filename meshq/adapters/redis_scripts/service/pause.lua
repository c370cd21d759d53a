-- ARGV id, owner ('': an operator), reason, for how long ('': until it is lifted). Replies as by_owner does.
local who = ARGV[2] == '' and 'operator' or 'own'
return by_owner(function(id)
  local wanted = wants(id)
  local before = wanted[who]
  local length = tonumber(ARGV[4])
  local pause = {reason = ARGV[3], ['until'] = length and NOW + length}
  wanted[who] = pause
  local changed = not (before and before.reason == pause.reason and before['until'] == pause['until'])
  return changed, want(id, wanted)
end)
