// SPDX-License-Identifier: Apache-2.0
/*
 * Watches capsules from a timer in the kernel.
 *
 *   phantom_start    once: arms nothing, but gives the timer its callback
 *   phantom_watch    fills or frees a slot and wakes the timer
 *   phantom_read     one capsule's numbers now, for `ps` and `explain`
 *   phantom_exit     a task ends: keeps what would vanish with it
 *   phantom_ingress  a packet for a watched cgroup
 *   phantom_egress   and one of it
 *   phantom_replay   not loaded but by tests: the decisions of window.h in virtual time
 *
 * The first three run when the loader calls them. Nothing is attached where tasks switch, so they
 * pay nothing for being watched; packets of watched cgroups and the ends of tasks pay one look into
 * a hash table. The timer looks at the slots that are due, posts crossings to the ring buffer, and
 * sleeps until the next one is due, for ever when no slot is in use.
 *
 * Who writes what: phantom_watch the `order` of a slot, with `serial` as its sequence lock; exits
 * and packets its `ended` and `net_bytes`; the timer everything else.
 */
#include "capsule.h"
#include "window.h"

#define MAX_SLOTS 512
#define WALK_TRIES 3
#define LOOPBACK 1 /* its index in every network namespace */

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What can be limited; wire.rs numbers them alike. */
enum { CPU, MEMORY, DELAY, NET, DISK, RESOURCES };

/* All but memory only grow. */
enum { METERS = RESOURCES - 1 };

static __always_inline __u32 resource_of(__u32 meter)
{
	return meter == CPU ? CPU : meter + 1;
}

/* What to watch. */
struct order {
	__u64 serial;      /* 0: this slot is free */
	__u64 cgroup;      /* its address */
	struct limit limits[RESOURCES];
};

struct slot {
	struct order order;
	__u64 serial;      /* the order that the rest belongs to */
	__u64 due_ns;
	struct memory_watch memory;
	struct task_sums ended;  /* of the tasks that ended since the slot is filled */
	struct task_sums sums;   /* of all tasks, as last seen; never less than before */
	__u64 net_bytes;         /* sent and received since the slot is filled */
};

/* Ring buffer record; wire.rs reads it. */
struct crossing {
	__u64 serial;
	__u64 resource;
	__u64 over;        /* 1: begins, 0: ends */
	__u64 measured;    /* growth of a meter in the window; memory: bytes */
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

/* What phantom_read tells of one resource: growth in the window until the last look, or bytes. */
struct use {
	__u64 now;
	__u64 peak;
	__u64 over;
};

/* Context of phantom_read; all but `slot` is the answer. */
struct read_call {
	__u64 slot;
	__u64 serial;
	__u64 at_ns;
	__u64 begin_ns;    /* first look */
	__u64 cpu_ns;
	__u64 delay_ns;
	__u64 net_bytes;
	__u64 disk_bytes;
	__u64 processes;
	__u64 keeps_delay; /* whether this kernel does */
	__u64 keeps_disk;
	__u64 timer_runs;
	__u64 timer_ns;
	struct use uses[RESOURCES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__type(key, __u32);
	__type(value, struct slot);
} phantom_slots SEC(".maps");

/* The meters of slot n begin at METERS * n. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SLOTS * METERS);
	__type(key, __u32);
	__type(value, struct meter);
} phantom_meters SEC(".maps");

/* The slot of each watched cgroup, by the cgroup's id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MAX_SLOTS);
	__type(key, __u64);
	__type(value, __u32);
} phantom_index SEC(".maps");

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

/* The slot that the timer looks at. */
static struct {
	__u32 slot;
	__u64 now;
	__u64 due_ns;
	__u64 values[METERS];
} look;

/*
 * Copied, not written in place: verifiers before Linux 6.4 do not know that reserved memory which
 * was compared with 0 once is not 0 at the compiler's second comparison.
 */
static bool post(__u64 serial, __u64 resource, __u64 over, __u64 measured, __u64 now,
		 __u64 crossed_ns, __u64 since_ns)
{
	struct crossing record = {
		.serial = serial,
		.resource = resource,
		.over = over,
		.measured = measured,
		.at_ns = now,
		.crossed_ns = crossed_ns,
		.since_ns = since_ns,
	};

	/* When it is full, the next look tries again. */
	return bpf_ringbuf_output(&phantom_ring, &record, sizeof(record), 0) == 0;
}

static __always_inline void begin_meter(struct meter *m, __u64 serial)
{
	m->serial = serial;
	m->head = m->tail = 0;
	m->growth = m->peak = 0;
	m->since_ns = m->crossed_ns = m->over = 0;
}

/* One of the meters, so that their code is in the program, and looked through when it is loaded,
 * once. */
static long look_at_meter(__u32 index, void *unused)
{
	__u32 key = look.slot * METERS + index, number = look.slot;
	struct slot *slot = bpf_map_lookup_elem(&phantom_slots, &number);
	struct meter *m = bpf_map_lookup_elem(&phantom_meters, &key);
	__u64 now = look.now, due, since;
	const struct limit *limit;

	if (!slot || !m || index >= METERS)
		return 1;
	limit = &slot->order.limits[resource_of(index)];
	if (m->serial != slot->serial)
		begin_meter(m, slot->serial);
	/* Before the first whole walk its sums are too low. */
	if ((index == DELAY - 1 || index == DISK - 1) && !slot->memory.seen_ns)
		return 0;
	due = meter_step(m, now, look.values[index], limit, index == CPU ? machine.cpus : 0);
	if (meter_begins(m, now, limit)) {
		since = m->since_ns ? m->since_ns : now - limit->width_ns;
		m->over = post(slot->serial, resource_of(index), 1, m->growth, now, m->crossed_ns,
			       since);
	} else if (meter_ends(m, limit)) {
		m->over = !post(slot->serial, resource_of(index), 0, m->growth, now, now, now);
	}
	look.due_ns = min_u64(look.due_ns, due);
	return 0;
}

/* Walks the tasks until their lists hold still, a few times; says whether they did. */
static __always_inline bool walk_slot(struct walk *w, struct slot *slot, struct task_sums *sums)
{
	bool whole = false;
	__u64 delay_ns = 0, disk_bytes = 0;

	for (int i = 0; i < WALK_TRIES && !whole; i++) {
		/* What ended is read first: who ends during the walk is not counted twice. */
		delay_ns = *(volatile __u64 *)&slot->ended.delay_ns;
		disk_bytes = *(volatile __u64 *)&slot->ended.disk_bytes;
		whole = walk_tasks(w, slot->order.cgroup);
	}
	if (whole) {
		delay_ns += w->alive.delay_ns;
		disk_bytes += w->alive.disk_bytes;
	}
	/* Who ends is for a moment in neither sum. */
	sums->delay_ns = max_u64(slot->sums.delay_ns, delay_ns);
	sums->disk_bytes = max_u64(slot->sums.disk_bytes, disk_bytes);
	return whole;
}

/* What a walk finds: memory, which it judges, and the sums of the tasks. */
static __noinline __u64 look_at_tasks(struct slot *slot, __u64 now, __u64 cpu_ns)
{
	struct memory_watch *m = &slot->memory;
	const struct limit *limits = slot->order.limits, *limit = &limits[MEMORY];
	bool others = limits[DELAY].level != NO_LIMIT || limits[DISK].level != NO_LIMIT;
	struct walk *w = &timer_walk;
	__u64 due;

	if (now >= walk_due(m, cpu_ns, limit, others)) {
		if (!walk_slot(w, slot, &slot->sums))
			return now + GAP_NS;
		m->processes = w->processes;
		m->cost_ns = bpf_ktime_get_ns() - now;
		memory_step(m, now, cpu_ns, w->bytes, limit);
		if (memory_begins(m, now, limit))
			m->over = post(slot->serial, MEMORY, 1, w->bytes, now,
				       m->since_ns + limit->width_ns, m->since_ns);
		else if (memory_ends(m, limit))
			m->over = !post(slot->serial, MEMORY, 0, w->bytes, now, now, now);
	}
	due = walk_due(m, cpu_ns, limit, others);
	/* Whether it runs at all must be looked at more often than its memory. */
	if (others || (limit->level != NO_LIMIT && !m->over))
		due = min_u64(due, align_up(now + 1, COARSE_NS));
	return due;
}

/* Forgets what a slot held for its last order; its meters forget when they are looked at. */
static void begin(struct slot *slot, __u64 serial)
{
	slot->serial = serial;
	slot->due_ns = 0;
	__builtin_memset(&slot->memory, 0, sizeof(slot->memory));
	/* A walk that went on while the slot was filled may have left those of the cgroup before. */
	__builtin_memset(&slot->sums, 0, sizeof(slot->sums));
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
	due = look_at_tasks(slot, now, cpu_ns);
	look.slot = index;
	look.now = now;
	look.due_ns = due;
	look.values[CPU] = cpu_ns;
	look.values[DELAY - 1] = slot->sums.delay_ns;
	look.values[NET - 1] = *(volatile __u64 *)&slot->net_bytes;
	look.values[DISK - 1] = slot->sums.disk_bytes;
	bpf_loop(METERS, look_at_meter, 0, 0);
	due = look.due_ns;
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
 * `phantom_pins` before; `order.cgroup` is found here. Returns 1 for a slot that is not there, 2
 * when `fd` leads to no cgroup, 3 when the index is full.
 */
SEC("syscall")
int phantom_watch(struct watch_call *call)
{
	__u32 index = call->slot, zero = 0;
	struct slot *slot = bpf_map_lookup_elem(&phantom_slots, &index);
	struct clock *clock = bpf_map_lookup_elem(&phantom_clock, &zero);
	__u64 cgroup = 0, id;

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
	if (!call->order.serial) {
		/* The loader still holds the cgroup. */
		id = cgroup_id(slot->order.cgroup);
		bpf_map_delete_elem(&phantom_index, &id);
		slot->order.cgroup = 0;
		return 0;
	}
	if (slot->order.cgroup != cgroup) {
		__builtin_memset(&slot->ended, 0, sizeof(slot->ended));
		__builtin_memset(&slot->sums, 0, sizeof(slot->sums));
		slot->net_bytes = 0;
	}
	slot->order.cgroup = cgroup;
	for (int i = 0; i < RESOURCES; i++)
		slot->order.limits[i] = call->order.limits[i];
	id = cgroup_id(cgroup);
	if (bpf_map_update_elem(&phantom_index, &id, &index, 0))
		return 3;
	__sync_lock_test_and_set(&slot->order.serial, call->order.serial);
	if (slots_used <= index)
		slots_used = index + 1;
	__sync_fetch_and_add(&kicks, 1);
	bpf_timer_start(&clock->timer, 0, 0);
	return 0;
}

/* What phantom_read tells of a meter. */
static __always_inline void read_meter(struct read_call *call, __u32 index)
{
	__u32 key = (__u32)call->slot * METERS + index;
	struct meter *m = bpf_map_lookup_elem(&phantom_meters, &key);
	struct use *use = &call->uses[resource_of(index)];

	if (!m)
		return;
	if (index == CPU)
		call->begin_ns = m->begin_ns;
	use->now = m->growth;
	use->peak = m->peak;
	use->over = m->over;
}

/* Returns 1 for a slot that is not in use. */
SEC("syscall")
int phantom_read(struct read_call *call)
{
	const struct task_struct *task = 0;
	__u32 index = call->slot;
	struct slot *slot = bpf_map_lookup_elem(&phantom_slots, &index);
	struct walk *w = &read_walk;
	struct task_sums sums;
	struct use *memory = &call->uses[MEMORY];
	bool whole;

	call->timer_runs = timer_runs;
	call->timer_ns = timer_ns;
	call->keeps_delay = bpf_core_field_exists(task->sched_info.run_delay);
	call->keeps_disk = bpf_core_field_exists(task->ioac.read_bytes);
	if (!slot || !slot->order.serial)
		return 1;
	whole = walk_slot(w, slot, &sums);
	call->serial = slot->serial;
	call->at_ns = bpf_ktime_get_ns();
	call->cpu_ns = cgroup_cpu_ns(slot->order.cgroup);
	call->delay_ns = sums.delay_ns;
	call->net_bytes = slot->net_bytes;
	call->disk_bytes = sums.disk_bytes;
	call->processes = whole ? w->processes : slot->memory.processes;
	read_meter(call, CPU);
	read_meter(call, DELAY - 1);
	read_meter(call, NET - 1);
	read_meter(call, DISK - 1);
	memory->now = whole ? w->bytes : slot->memory.resident_bytes;
	memory->peak = max_u64(slot->memory.peak_bytes, memory->now);
	memory->over = slot->memory.over;
	return 0;
}

/* The slot of a cgroup, if it is watched. */
static __always_inline struct slot *slot_of(__u64 cgroup_id)
{
	__u32 *index = bpf_map_lookup_elem(&phantom_index, &cgroup_id);

	return index ? bpf_map_lookup_elem(&phantom_slots, index) : 0;
}

/* Called for each task that ends, once it is marked as such. */
SEC("raw_tp/sched_process_exit")
int phantom_exit(struct bpf_raw_tracepoint_args *context)
{
	const struct task_struct *task = (const void *)context->args[0];
	struct slot *slot = slot_of(BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id));
	struct task_sums sums = {};

	if (slot) {
		add_task(&sums, task);
		__sync_fetch_and_add(&slot->ended.delay_ns, sums.delay_ns);
		__sync_fetch_and_add(&slot->ended.disk_bytes, sums.disk_bytes);
	}
	return 0;
}

static __always_inline int count_packet(struct __sk_buff *packet)
{
	struct slot *slot;

	if (packet->ifindex != LOOPBACK) {
		slot = slot_of(bpf_skb_cgroup_id(packet));
		if (slot)
			__sync_fetch_and_add(&slot->net_bytes, packet->len);
	}
	return 1; /* lets it pass */
}

SEC("cgroup_skb/ingress")
int phantom_ingress(struct __sk_buff *packet)
{
	return count_packet(packet);
}

SEC("cgroup_skb/egress")
int phantom_egress(struct __sk_buff *packet)
{
	return count_packet(packet);
}

/* Context of phantom_replay. */
struct replay_call {
	__u64 first;       /* begin anew */
	__u64 now;
	__u64 value;
	__u64 bytes;
	__u64 speed;
	struct limit meter;
	struct limit memory;
	/* The answer. */
	__u64 due_ns;      /* next look at the meter */
	__u64 memory_due_ns;
	__u64 growth;
	__u64 over;
	__u64 crossed_ns;
	__u64 since_ns;
	__u64 memory_over;
	__u64 memory_since_ns;
};

static struct slot replayed;
static struct meter replayed_meter;

/* One look of the timer at a capsule that exists only in a test. */
SEC("syscall")
int phantom_replay(struct replay_call *call)
{
	struct meter *meter = &replayed_meter;
	struct memory_watch *m = &replayed.memory;
	/* The decisions take their limits from the heap, as they do in the timer. */
	struct limit *limit = &replayed.order.limits[CPU];
	struct limit *memory = &replayed.order.limits[MEMORY];

	if (call->first) {
		begin(&replayed, 1);
		begin_meter(meter, 1);
	}
	*limit = call->meter;
	*memory = call->memory;
	call->due_ns = meter_step(meter, call->now, call->value, limit, call->speed);
	if (meter_begins(meter, call->now, limit))
		meter->over = 1;
	else if (meter_ends(meter, limit))
		meter->over = 0;
	if (call->now >= memory_due(m, call->value, memory)) {
		memory_step(m, call->now, call->value, call->bytes, memory);
		if (memory_begins(m, call->now, memory))
			m->over = 1;
		else if (memory_ends(m, memory))
			m->over = 0;
	}
	call->memory_due_ns = memory_due(m, call->value, memory);
	call->growth = meter->growth;
	call->over = meter->over;
	call->crossed_ns = meter->crossed_ns;
	call->since_ns = meter->since_ns;
	call->memory_over = m->over;
	call->memory_since_ns = m->since_ns;
	return 0;
}
