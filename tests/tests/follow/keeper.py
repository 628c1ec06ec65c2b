"""A service that counts, and writes down for the test from when to when it lived."""
import json, os, sqlite3, sys, threading, time

shared, state, node = sys.argv[1:4]
clock = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
start = clock()
db = sqlite3.connect(os.path.join(state, "keeper.db"), isolation_level=None)
sound = db.execute("pragma integrity_check").fetchone()[0] == "ok"
db.execute("create table if not exists count (value integer)")
found = db.execute("select max(value) from count").fetchone()[0] or 0
life = {"node": node, "pid": os.getpid(), "start": start, "last": start, "found": found,
        "count": found, "sound": sound}
path = os.path.join(shared, "life-%f-%d" % (start, os.getpid()))

def note():
    while True:
        life["last"] = clock()
        with open(path + ".new", "w") as file:
            json.dump(life, file)
        os.rename(path + ".new", path)
        time.sleep(0.01)

threading.Thread(target=note, daemon=True).start()
# A child that outlives its parent's end, unless all of it is ended.
if os.fork() == 0:
    os.setsid()
    child = os.path.join(shared, "child-%f" % start)
    while True:
        with open(child, "w") as file:
            file.write(str(clock()))
        time.sleep(0.01)
big = os.path.join(state, "big")
while True:
    time.sleep(0.25)
    db.execute("delete from count")
    db.execute("insert into count values (?)", (life["count"] + 1,))
    life["count"] += 1
    wanted = os.path.exists(os.path.join(shared, "big"))
    if wanted and not os.path.exists(big):
        with open(big, "wb") as file:
            file.write(os.urandom(100000))
    if not wanted and os.path.exists(big):
        os.remove(big)
