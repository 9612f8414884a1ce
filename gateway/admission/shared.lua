-- GCRA on buckets that many gateways share: a batch of spends in one call, each all or nothing, one after the other.
-- The arithmetic is that of gateway/admission/gcra.py; the clock is this server's.
--
-- A bucket is one key: the moment at which it is full again, in decimal nanoseconds since 1970. It expires a minute after
-- that: forgetting a full bucket changes nothing, and a minute is more than a replica that takes over may be behind.
--
-- Numbers are doubles here, exact up to 2^53. Nanoseconds since 1970 are more, so a moment is taken apart into seconds
-- and the rest, and all that is added and compared are debts: the nanoseconds until a bucket is full, at most 30 days
-- (2.6e15). A price is at most one more than the burst. So every result is exact.
--
-- KEYS: every bucket of the batch, once.
-- ARGV[1], msgpack: {key, debt, key, debt, ...}: what a gateway knows of buckets; the larger debt holds.
-- ARGV[2], msgpack: {{key, price, burst, key, price, burst, ...}, ...}: the charges of each spend. `key` counts from 1.
-- Returns, msgpack: {{1 if admitted or 0, the debt that each charge met, ...}, ...}, a list for each spend.

local SLACK_MS = 60000

local time = redis.call('TIME')
local now_s, now_ns = tonumber(time[1]), tonumber(time[2]) * 1000

local function debt_of(moment)
  if not moment then return 0 end
  local debt = (tonumber(string.sub(moment, 1, -10)) - now_s) * 1e9 + (tonumber(string.sub(moment, -9)) - now_ns)
  return math.max(debt, 0)
end

local function moment_in(debt)
  local ns = now_ns + debt % 1e9
  local s = now_s + math.floor(debt / 1e9)
  if ns >= 1e9 then s, ns = s + 1, ns - 1e9 end
  return string.format('%.0f%09.0f', s, ns)
end

local debts, changed = {}, {}
if #KEYS > 0 then
  for key, moment in ipairs(redis.call('MGET', unpack(KEYS))) do debts[key] = debt_of(moment) end
end

local known = cmsgpack.unpack(ARGV[1])
for i = 1, #known, 2 do
  local key, debt = known[i], known[i + 1]
  if debt > debts[key] then debts[key], changed[key] = debt, true end
end

local answers = {}
for number, charges in ipairs(cmsgpack.unpack(ARGV[2])) do
  local answer, after, admitted = {1}, {}, true
  for i = 1, #charges, 3 do
    local key, price, burst = charges[i], charges[i + 1], charges[i + 2]
    if debts[key] > burst then -- this server's clock went back: what is owed is never more than the burst
      debts[key], changed[key] = burst, true
    end
    local debt = math.min(after[key] or debts[key], burst)
    answer[#answer + 1] = debt
    if debt + price > burst then
      admitted = false
    elseif admitted and price > 0 then
      after[key] = debt + price
    end
  end
  if admitted then
    for key, debt in pairs(after) do debts[key], changed[key] = debt, true end
  else
    answer[1] = 0
  end
  answers[number] = answer
end

for key in pairs(changed) do
  local life_ms = string.format('%.0f', math.ceil(debts[key] / 1e6) + SLACK_MS)
  redis.call('SET', KEYS[key], moment_in(debts[key]), 'PX', life_ms)
end
return cmsgpack.pack(answers)
