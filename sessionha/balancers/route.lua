-- Tells Envoy which servers the route cookie of a request names, once its signature is verified.
--
-- This file is the same for every cluster. The cookie's name, keys and addresses come with the
-- metadata of the route, so they change while Envoy runs. What is found goes to dynamic metadata,
-- where the load balancing looks for it: nothing that a client sends can be mistaken for it.

local bit = require("bit")
local band, bor, bxor, bnot = bit.band, bit.bor, bit.bxor, bit.bnot
local ror, rshift, lshift, tobit = bit.ror, bit.rshift, bit.lshift, bit.tobit

local MOST_CHARS = 1024   -- of a route cookie
local MOST_NAMES = 8      -- in it
local MOST_COOKIES = 4    -- of its name that are looked at
local REMEMBERED = 4096   -- verified cookies (about 1 MB a worker): the next request costs no HMAC

-- SHA-256 (FIPS 180-4). Its constants are the first 32 bits of the fractional parts of the square
-- roots of the first eight primes, and of the cube roots of the first 64.

local function fraction(number)
  return tobit(math.floor((number % 1) * 4294967296))
end

local START, ROUND = {}, {}
do
  local candidate = 2
  while #ROUND < 64 do
    local prime = true
    for divisor = 2, math.floor(math.sqrt(candidate)) do
      if candidate % divisor == 0 then
        prime = false
        break
      end
    end
    if prime then
      if #START < 8 then
        START[#START + 1] = fraction(math.sqrt(candidate))
      end
      ROUND[#ROUND + 1] = fraction(candidate ^ (1 / 3))
    end
    candidate = candidate + 1
  end
end

local schedule = {}

local function compress(state, text, offset)
  for word = 1, 16 do
    local a, b, c, d = text:byte(offset + word * 4 - 3, offset + word * 4)
    schedule[word] = bor(lshift(a, 24), lshift(b, 16), lshift(c, 8), d)
  end
  for word = 17, 64 do
    local x, y = schedule[word - 15], schedule[word - 2]
    local first = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
    local second = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
    schedule[word] = tobit(schedule[word - 16] + first + schedule[word - 7] + second)
  end
  local a, b, c, d, e, f, g, h = unpack(state)
  for word = 1, 64 do
    local mixed = bxor(ror(e, 6), ror(e, 11), ror(e, 25)) + bxor(band(e, f), band(bnot(e), g))
    local high = tobit(h + mixed + ROUND[word] + schedule[word])
    local low = bxor(ror(a, 2), ror(a, 13), ror(a, 22)) + bxor(band(a, b), band(a, c), band(b, c))
    h, g, f, e = g, f, e, tobit(d + high)
    d, c, b, a = c, b, a, tobit(high + low)
  end
  local mixed = { a, b, c, d, e, f, g, h }
  for index = 1, 8 do
    state[index] = tobit(state[index] + mixed[index])
  end
end

local function word_bytes(word)
  return string.char(
    band(rshift(word, 24), 255), band(rshift(word, 16), 255), band(rshift(word, 8), 255),
    band(word, 255)
  )
end

-- The digest of what `state` has taken (`taken` bytes, whole blocks) and of `text`.
local function digest(state, taken, text)
  local running = { unpack(state) }
  local padding = string.rep("\0", (55 - #text) % 64)
  local padded = text .. "\128" .. padding .. "\0\0\0\0" .. word_bytes((taken + #text) * 8)
  for offset = 0, #padded - 64, 64 do
    compress(running, padded, offset)
  end
  local bytes = {}
  for index = 1, 8 do
    bytes[index] = word_bytes(running[index])
  end
  return table.concat(bytes)
end

-- HMAC (RFC 2104): a key of at most 64 bytes, hashed once and not for every signature.
local function prepared(key)
  local states = {}
  for _, mask in ipairs({ 0x36, 0x5c }) do
    local block = (key .. string.rep("\0", 64 - #key)):gsub(".", function(char)
      return string.char(bxor(char:byte(), mask))
    end)
    local state = { unpack(START) }
    compress(state, block, 0)
    states[#states + 1] = state
  end
  return states
end

local function hmac(states, text)
  return digest(states[2], 64, digest(states[1], 64, text))
end

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

-- URL-safe base64 without padding.
local function encoded(bytes)
  local chars = {}
  for start = 1, #bytes, 3 do
    local a, b, c = bytes:byte(start, start + 2)
    local group = bor(lshift(a, 16), lshift(b or 0, 8), c or 0)
    for place = 0, (c and 3) or (b and 2) or 1 do
      local index = band(rshift(group, 18 - 6 * place), 63) + 1
      chars[#chars + 1] = ALPHABET:sub(index, index)
    end
  end
  return table.concat(chars)
end

-- Takes the same time wherever they differ.
local function equal(mine, theirs)
  if #mine ~= #theirs then
    return false
  end
  local different = 0
  for index = 1, #mine do
    different = bor(different, bxor(mine:byte(index), theirs:byte(index)))
  end
  return different == 0
end

-- The route cookie

local prepared_keys = {}   -- hexadecimal key to what was prepared of it
local verified = {}        -- cookie to its names and the key that they were verified with
local count = 0            -- of `verified`

local function key_of(hexadecimal)
  if not prepared_keys[hexadecimal] then
    local key = hexadecimal:gsub("%x%x", function(pair)
      return string.char(tonumber(pair, 16))
    end)
    prepared_keys[hexadecimal] = prepared(key)
  end
  return prepared_keys[hexadecimal]
end

-- Whether a key of the cluster signed this; remembered, also across changes of the cluster.
local function signed(cookie, text, signature, key)
  if verified[cookie] == key then
    return true
  end
  if not equal(encoded(hmac(key_of(key), text)), signature) then
    return false
  end
  if count >= REMEMBERED then
    verified, count = {}, 0
  end
  verified[cookie], count = key, count + 1
  return true
end

local function are_names(list)
  local names = 0
  for name in (list .. "~"):gmatch("([^~]*)~") do
    names = names + 1
    if #name < 1 or #name > 16 then
      return false
    end
  end
  return names <= MOST_NAMES
end

-- The list of names in a cookie, or nil when it is none. Without keys no signature is asked for.
local function names_in(cookie, keys)
  if #cookie > MOST_CHARS then
    return nil
  end
  local text, list, id, signature =
    cookie:match("^(1%.([a-z0-9~-]+)%.[A-Za-z0-9_-]*%.([A-Za-z0-9_-]+))%.([A-Za-z0-9_-]+)$")
  if not text or #signature ~= 43 or not are_names(list) then
    return nil
  end
  if keys and not (keys[id] and signed(cookie, text, signature, keys[id])) then
    return nil
  end
  return list
end

-- The list in the only valid one of the request's cookies of this name.
local function names_among(header, name, keys)
  local seen, looked, found = {}, 0, nil
  for pair in header:gmatch("[^;]+") do
    local key, value = pair:match("^[ \t]*([^=]-)[ \t]*=[ \t]*(.-)[ \t]*$")
    if key == name and not seen[value] then
      seen[value], looked = true, looked + 1
      local list = names_in(value, keys)
      if looked > MOST_COOKIES or (list and found) then
        return nil
      end
      found = found or list
    end
  end
  return found
end

function envoy_on_request(handle)
  local headers, told = handle:headers(), handle:metadata()
  local route, cookies = headers:get("sessionha-route"), headers:get("cookie")
  local list
  if route then   -- of a client that keeps no cookies
    list = names_in(route, told:get("keys"))
  elseif cookies then
    list = names_among(cookies, told:get("cookie"), told:get("keys"))
  end
  if not list then
    return
  end
  local servers, order, seen = told:get("servers"), {}, {}
  for name in list:gmatch("[^~]+") do
    local address = servers[name]
    if address and not seen[address] then
      seen[address], order[#order + 1] = true, address
    end
  end
  if #order > 0 then
    handle:streamInfo():dynamicMetadata():set("sessionha", "servers", table.concat(order, ","))
  end
end
