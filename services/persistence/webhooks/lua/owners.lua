#!lua flags=allow-oom
-- Dead letters by owner. KEYS[4]: hash, owner → ids of dead letters, the oldest first, a space behind each.

local function owned(owner)
  local ids = {}
  for id in (redis.call('HGET', KEYS[4], owner) or ''):gmatch('(%S+) ') do ids[#ids + 1] = id end
  return ids
end

local function own(owner, ids)
  if #ids == 0 then
    redis.call('HDEL', KEYS[4], owner)
  else
    redis.call('HSET', KEYS[4], owner, table.concat(ids, ' ') .. ' ')
  end
end

local function disown(owner, id)
  if owner == '' then return end
  local left = {}
  for _, one in ipairs(owned(owner)) do
    if one ~= id then left[#left + 1] = one end
  end
  own(owner, left)
end

