// SPDX-License-Identifier: Apache-2.0
/*
 * Watches capsules from a timer in the kernel.
 *
 *   phantom_start   once: arms nothing, but gives the timer its callback
 *   phantom_watch   fills or frees a slot and wakes the timer
 *   phantom_read    one capsule's numbers now, for `ps` and `explain`
 *   phantom_replay  not loaded but by tests: the decisions of window.h in virtual time
 *
 * All four run only when the loader calls them; no program is attached to anything, so the
 * watched tasks pay nothing. The timer looks at the slots that are due, posts crossings to the
 * ring buffer, and sleeps until the next one is due, for ever when no slot is in use.
 *
 * Who writes what: phantom_watch the `order` of a slot, with `serial` as its sequence lock;
 * the timer everything else.
 */
#include "capsule.h"
#include "window.h"

#define MAX_SLOTS 512
#define WALK_TRIES 3

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What to watch. */
struct order {
	__u64 serial;      /* 0: this slot is free */
	__u64 cgroup;      /* its address */
	struct limit cpu;
	struct limit memory;
};

struct slot {
	struct order order;
	__u64 serial;      /* the order that the rest belongs to */
	__u64 due_ns;
	struct cpu_window cpu;
	struct memory_watch memory;
};

enum { CPU = 0, MEMORY = 1 };

/* Ring buffer record; wire.rs reads it. */
struct crossing {
	__u64 serial;
	__u64 resource;
	__u64 over;        /* 1: begins, 0: ends */
	__u64 measured;    /* CPU: nanoseconds used in the window; memory: bytes */
	__u64 at_ns;       /* when it was seen */
	__u64 crossed_ns;  /* when the window was full */
	__u64 since_ns;    /* since when the level is exceeded */
};

/* Context of phantom_watch; answered in place. */
struct watch_call {
	__u64 slot;
	__u64 fd;          /* of the cgroup's directory */
	struct order order;
};

/* Context of phantom_read; all but `slot` is the answer. */
struct read_call {
	__u64 slot;
	__u64 serial;
	__u64 at_ns;
	__u64 begin_ns;    /* first look */
	__u64 cpu_ns;
	__u64 use_ns;      /* in the window until the last look */
	__u64 peak_use_ns;
	__u64 resident_bytes;
	__u64 peak_bytes;
	__u64 processes;
	__u64 cpu_over;
	__u64 memory_over;
	__u64 timer_runs;
	__u64 timer_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct slot);
} phantom_slots SEC(".maps");

/* Holds each watched cgroup in memory. */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} phantom_pins SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} phantom_ring SEC(".maps");

struct clock {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct clock);
} phantom_clock SEC(".maps");

__u64 slots_used;    /* no slot at or above this one is in use */
__u64 kicks;         /* grows with each order, so that the timer cannot sleep over one */
__u64 timer_runs;
__u64 timer_ns;

/* What the timer alone, and phantom_read alone, works with; see struct walk for why here. */
static __u64 next_due_ns;
static struct walk timer_walk;
static struct walk read_walk;

static bool post(struct slot *slot, __u64 resource, __u64 over, __u64 measured, __u64 now,
		 __u64 crossed_ns, __u64 since_ns)
{
	struct crossing *record = bpf_ringbuf_reserve(&phantom_ring, sizeof(*record), 0);

	if (!record)
		return false; /* full: the next look tries again */
	record->serial = slot->serial;
	record->resource = resource;
	record->over = over;
	record->measured = measured;
	record->at_ns = now;
	record->crossed_ns = crossed_ns;
	record->since_ns = since_ns;
	bpf_ringbuf_submit(record, 0);
	return true;
}

static __noinline __u64 look_at_cpu(struct slot *slot, __u64 now, __u64 cpu_ns)
{
	struct cpu_window *w = &slot->cpu;
	const struct limit *limit = &slot->order.cpu;
	__u64 due = cpu_step(w, now, cpu_ns, limit, machine.cpus);

	if (cpu_begins(w, now, limit)) {
		__u64 since = w->since_ns ? w->since_ns : now - limit->width_ns;

		w->over = post(slot, CPU, 1, w->use_ns, now, w->crossed_ns, since);
	} else if (cpu_ends(w, limit)) {
		w->over = !post(slot, CPU, 0, w->use_ns, now, now, now);
	}
	return due;
}

static __noinline __u64 look_at_memory(struct slot *slot, __u64 now, __u64 cpu_ns)
{
	struct memory_watch *m = &slot->memory;
	const struct limit *limit = &slot->order.memory;
	struct walk *w = &timer_walk;
	bool whole = false;
	__u64 due;

	if (now >= memory_due(m, cpu_ns, limit)) {
		for (int i = 0; i < WALK_TRIES && !whole; i++)
			whole = cgroup_resident(w, slot->order.cgroup);
		if (!whole)
			return now + GAP_NS;
		m->processes = w->processes;
		m->cost_ns = bpf_ktime_get_ns() - now;
		memory_step(m, now, cpu_ns, w->bytes, limit);
		if (memory_begins(m, now, limit))
			m->over = post(slot, MEMORY, 1, w->bytes, now, m->since_ns + limit->width_ns,
				       m->since_ns);
		else if (memory_ends(m, limit))
			m->over = !post(slot, MEMORY, 0, w->bytes, now, now, now);
	}
	due = memory_due(m, cpu_ns, limit);
	/* Whether it runs at all must be looked at more often than its memory. */
	return limit->level == NO_LIMIT || m->over ? due : min_u64(due, align_up(now + 1, COARSE_NS));
}

/* Forgets what a slot held for its last order. */
static void begin(struct slot *slot, __u64 serial)
{
	slot->serial = serial;
	slot->due_ns = 0;
	slot->cpu.head = slot->cpu.tail = 0;
	slot->cpu.use_ns = slot->cpu.peak_use_ns = 0;
	slot->cpu.since_ns = slot->cpu.crossed_ns = slot->cpu.over = 0;
	__builtin_memset(&slot->memory, 0, sizeof(slot->memory));
}

static long look_at_slot(__u32 index, void *unused)
{
	__u64 now, cpu_ns, serial, due;
	struct slot *slot = bpf_map_lookup_elem(&phantom_slots, &index);

	if (!slot)
		return 1;
	serial = *(volatile __u64 *)&slot->order.serial;
	if (!serial)
		return 0;
	now = bpf_ktime_get_ns();
	if (slot->serial != serial)
		begin(slot, serial);
	if (now < slot->due_ns) {
		next_due_ns = min_u64(next_due_ns, slot->due_ns);
		return 0;
	}
	cpu_ns = cgroup_cpu_ns(slot->order.cgroup);
	/* The order may have been replaced meanwhile, and its cgroup be gone. */
	if (*(volatile __u64 *)&slot->order.serial != serial) {
		next_due_ns = 0;
		return 0;
	}
	due = look_at_cpu(slot, now, cpu_ns);
	due = min_u64(due, look_at_memory(slot, now, cpu_ns));
	slot->due_ns = due;
	next_due_ns = min_u64(next_due_ns, due);
	return 0;
}

static int tick(void *map, __u32 *key, struct clock *clock)
{
	__u64 begin = bpf_ktime_get_ns(), next, now;
	__u64 before = *(volatile __u64 *)&kicks;

	next_due_ns = NO_LIMIT;
	bpf_loop(slots_used, look_at_slot, 0, 0);
	next = next_due_ns;
	now = bpf_ktime_get_ns();
	timer_runs++;
	timer_ns += now - begin;
	if (next != NO_LIMIT)
		bpf_timer_start(&clock->timer, next > now ? next - now : 0, 0);
	if (*(volatile __u64 *)&kicks != before)
		bpf_timer_start(&clock->timer, 0, 0);
	return 0;
}

SEC("syscall")
int phantom_start(void *unused)
{
	__u32 zero = 0;
	struct clock *clock = bpf_map_lookup_elem(&phantom_clock, &zero);
	long error;

	if (!clock || !find_cpu_offsets())
		return 1;
	error = bpf_timer_init(&clock->timer, &phantom_clock, CLOCK_MONOTONIC);
	return error ? error : bpf_timer_set_callback(&clock->timer, tick);
}

/* The cgroup whose directory the calling process has open as `fd`. */
static __always_inline __u64 cgroup_of_fd(__u64 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd);
	struct file *file = 0;
	struct kernfs_node *node;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	node = BPF_CORE_READ(file, f_inode, i_private);
	return (__u64)BPF_CORE_READ(node, priv);
}

/*
 * `order.serial` 0 frees the slot. Otherwise the loader has put the cgroup behind `fd` into
 * `phantom_pins` before; `order.cgroup` is found here. Returns 1 for a slot that is not there and
 * 2 when `fd` leads to no cgroup.
 */
SEC("syscall")
int phantom_watch(struct watch_call *call)
{
	__u32 index = call->slot, zero = 0;
	struct slot *slot = bpf_map_lookup_elem(&phantom_slots, &index);
	struct clock *clock = bpf_map_lookup_elem(&phantom_clock, &zero);
	__u64 cgroup = 0;

	if (!slot || !clock)
		return 1;
	if (call->order.serial) {
		cgroup = cgroup_of_fd(call->fd);
		/* Only the address of a cgroup leads to a node that leads back to it. */
		if (!cgroup ||
		    (__u64)BPF_CORE_READ((const struct cgroup *)cgroup, kn, priv) != cgroup)
			return 2;
	}
	/* An exchange is a full barrier. */
	__sync_lock_test_and_set(&slot->order.serial, 0);
	if (!call->order.serial)
		return 0;
	slot->order.cgroup = cgroup;
	slot->order.cpu = call->order.cpu;
	slot->order.memory = call->order.memory;
	__sync_lock_test_and_set(&slot->order.serial, call->order.serial);
	if (slots_used <= index)
		slots_used = index + 1;
	__sync_fetch_and_add(&kicks, 1);
	bpf_timer_start(&clock->timer, 0, 0);
	return 0;
}

/* Returns 1 for a slot that is not in use. */
SEC("syscall")
int phantom_read(struct read_call *call)
{
	__u32 index = call->slot;
	struct slot *slot = bpf_map_lookup_elem(&phantom_slots, &index);
	struct walk *w = &read_walk;
	bool whole = false;

	call->timer_runs = timer_runs;
	call->timer_ns = timer_ns;
	if (!slot || !slot->order.serial)
		return 1;
	for (int i = 0; i < WALK_TRIES && !whole; i++)
		whole = cgroup_resident(w, slot->order.cgroup);
	call->serial = slot->serial;
	call->at_ns = bpf_ktime_get_ns();
	call->begin_ns = slot->cpu.begin_ns;
	call->cpu_ns = cgroup_cpu_ns(slot->order.cgroup);
	call->use_ns = slot->cpu.use_ns;
	call->peak_use_ns = slot->cpu.peak_use_ns;
	call->resident_bytes = whole ? w->bytes : slot->memory.resident_bytes;
	call->peak_bytes = max_u64(slot->memory.peak_bytes, call->resident_bytes);
	call->processes = whole ? w->processes : slot->memory.processes;
	call->cpu_over = slot->cpu.over;
	call->memory_over = slot->memory.over;
	return 0;
}

/* Context of phantom_replay. */
struct replay_call {
	__u64 first;       /* begin anew */
	__u64 now;
	__u64 cpu_ns;
	__u64 bytes;
	__u64 cpus;
	struct limit cpu;
	struct limit memory;
	/* The answer. */
	__u64 due_ns;      /* next look at CPU */
	__u64 memory_due_ns;
	__u64 use_ns;
	__u64 cpu_over;
	__u64 crossed_ns;
	__u64 since_ns;
	__u64 memory_over;
	__u64 memory_since_ns;
};

static struct slot replayed;

/* One look of the timer at a capsule that exists only in a test. */
SEC("syscall")
int phantom_replay(struct replay_call *call)
{
	struct cpu_window *w = &replayed.cpu;
	struct memory_watch *m = &replayed.memory;

	if (call->first)
		begin(&replayed, 1);
	/* The decisions take their limits from the heap, as they do in the timer. */
	replayed.order.cpu = call->cpu;
	replayed.order.memory = call->memory;
	call->due_ns = cpu_step(w, call->now, call->cpu_ns, &replayed.order.cpu, call->cpus);
	if (cpu_begins(w, call->now, &replayed.order.cpu))
		w->over = 1;
	else if (cpu_ends(w, &replayed.order.cpu))
		w->over = 0;
	if (call->now >= memory_due(m, call->cpu_ns, &replayed.order.memory)) {
		memory_step(m, call->now, call->cpu_ns, call->bytes, &replayed.order.memory);
		if (memory_begins(m, call->now, &replayed.order.memory))
			m->over = 1;
		else if (memory_ends(m, &replayed.order.memory))
			m->over = 0;
	}
	call->memory_due_ns = memory_due(m, call->cpu_ns, &replayed.order.memory);
	call->use_ns = w->use_ns;
	call->cpu_over = w->over;
	call->crossed_ns = w->crossed_ns;
	call->since_ns = w->since_ns;
	call->memory_over = m->over;
	call->memory_since_ns = m->since_ns;
	return 0;
}
