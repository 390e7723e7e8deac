-- The suppressions of an address: [scope, source, reason, created in ms, expires in ms (0: never), …], at most one of each
-- scope. An earlier version stored only the reason, as a text.
local REASONS = { { 'hard_bounce', 'bounce', 'all' }, { 'opted_out', 'opt_out', 'marketing' }, { 'unsubscribed', 'unsubscribe', 'marketing' } }

local function suppressions_of(value)
  local first = string.byte(value)
  if first == 0x91 or first == 0x92 then return cmsgpack.unpack(value) end
  for _, one in ipairs(REASONS) do
    if string.sub(value, 1, #one[1]) == one[1] then return { { one[3], one[2], value, 0, 0, '', '', '' } } end
  end
  return { { 'all', 'api', value, 0, 0, '', '', '' } }
end

local function holds(suppression, now_ms)
  return suppression[5] == 0 or suppression[5] > now_ms
end

-- Lift the suppressions of an address for which `wanted` is true; delete expired ones. Return how many were lifted.
local function lift_suppressions(address, now_ms, wanted)
  local stored = redis.call('HGET', C .. ':suppressed', address)
  local kept, lifted = {}, 0
  for _, one in ipairs(stored and suppressions_of(stored) or {}) do
    if holds(one, now_ms) then
      if wanted(one) then lifted = lifted + 1 else kept[#kept + 1] = one end
    end
  end
  if #kept == 0 then
    redis.call('HDEL', C .. ':suppressed', address)
  else
    redis.call('HSET', C .. ':suppressed', address, cmsgpack.pack(kept))
  end
  return lifted
end

-- Return whether a suppression holds at least as long as another.
local function lasts(one, other)
  return one[5] == 0 or (other[5] > 0 and one[5] >= other[5])
end

-- Store a suppression. Of two of one scope the longer one stays, of equals the first; but an opt-out gives way to any
-- other source, because an opt-in would lift it and with it the only trace of a complaint. Return "new" if the address
-- had none, "changed" if it had another, "kept" if nothing changed.
local function store_suppression(address, suppression, now_ms)
  local stored = redis.call('HGET', C .. ':suppressed', address)
  local kept, known, longer = {}, false, true
  for _, one in ipairs(stored and suppressions_of(stored) or {}) do
    if holds(one, now_ms) then
      known = true
      if one[1] ~= suppression[1] then
        kept[#kept + 1] = one
      elseif lasts(one, suppression) and (one[2] ~= 'opt_out' or suppression[2] == 'opt_out' or not lasts(suppression, one)) then
        kept[#kept + 1], longer = one, false
      end
    end
  end
  if longer and holds(suppression, now_ms) then kept[#kept + 1] = suppression end
  if #kept == 0 then
    redis.call('HDEL', C .. ':suppressed', address)
    return 'kept'
  end
  redis.call('HSET', C .. ':suppressed', address, cmsgpack.pack(kept))
  if not longer then return 'kept' end
  return known and 'changed' or 'new'
end
