-- ARGV id, owner ('': an operator). Replies as by_owner does.
local who = ARGV[2] == '' and 'operator' or 'own'
return by_owner(function(id)
  local wanted = wants(id)
  local changed = wanted[who] ~= nil
  wanted[who] = nil
  return changed, want(id, wanted)
end)
