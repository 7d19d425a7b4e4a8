-- The same load for every variant: each thread has one connection and one session, and carries
-- the cookies that it is given, as a browser does. It stops after an answer, never within a
-- request, so the number of answers is the number of requests that the server carried out.
-- Arguments: seconds, method, path, then one Cookie header for each thread.

local ffi = require("ffi")
ffi.cdef[[
  typedef struct { long seconds; long nanoseconds; } benchmark_time;
  int clock_gettime(int clock, benchmark_time *time);
]]

local time = ffi.new("benchmark_time")
local threads = {}

local function now()
  ffi.C.clock_gettime(1, time) -- CLOCK_MONOTONIC
  return tonumber(time.seconds) + tonumber(time.nanoseconds) * 1e-9
end

function setup(thread)
  threads[#threads + 1] = thread
  thread:set("number", #threads)
end

local function compose()
  local pairs_of = {}
  for name, value in pairs(jar) do
    pairs_of[#pairs_of + 1] = name .. "=" .. value
  end
  cookies = table.concat(pairs_of, "; ")
  composed = wrk.format(method, path, { ["Cookie"] = cookies })
end

function init(arguments)
  seconds, method, path = tonumber(arguments[1]), arguments[2], arguments[3]
  jar, answered, wrong, took = {}, 0, 0, 0
  for name, value in (arguments[3 + number] or ""):gmatch("([^=; ]+)=([^;]*)") do
    jar[name] = value
  end
  compose()
end

function request()
  started = started or now()
  return composed
end

function response(status, headers, body)
  answered = answered + 1
  if status ~= 200 then
    wrong = wrong + 1
  end
  local given = headers["set-cookie"] or headers["Set-Cookie"]
  if given then
    local name, value = given:match("^([^=]+)=([^;]*)")
    if jar[name] ~= value then
      jar[name] = value
      compose()
    end
  end
  took = now() - started
  if took >= seconds then
    wrk.thread:stop()
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  print(("load %d %d %d"):format(latency:percentile(50), latency:percentile(99), broken))
  for _, thread in ipairs(threads) do
    print(("thread %d %d %.6f %s"):format(
      thread:get("answered"), thread:get("wrong"), thread:get("took"), thread:get("cookies")))
  end
end
