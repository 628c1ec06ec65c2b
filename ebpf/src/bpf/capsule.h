/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel already knows of a cgroup: the CPU time of its tasks, living and ended; the
 * resident memory of its processes; the run-queue delay and the block I/O of its living tasks.
 *
 * A cgroup is known by its address, and stays allocated because the map `pins` holds a reference.
 * Everything is read with bpf_probe_read_kernel, because the timer is no place for the locks that
 * guard these lists; what can go wrong without them is found and told as a torn walk.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define MAX_STEPS 32768
#define MAX_CPUS 1024

/* Set by the loader. */
const volatile struct {
	__u64 cpus;          /* highest possible CPU number + 1 */
	__u64 page_bytes;
} machine SEC(".rodata.machine") = { 1, 4096 };

/*
 * How far the variables of each CPU lie from the address that a per-CPU pointer holds. The kernel's
 * own table is out of reach (its symbol is not always listed), so it is found by looking at one
 * per-CPU allocation from both sides: the pointer to it, and where its parts really are.
 */
__u64 cpu_offsets[MAX_CPUS];

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} phantom_probe SEC(".maps");

static char probe_map[512]; /* a copy of the first bytes of `phantom_probe`, as the kernel sees it */

static __always_inline bool find_cpu_offsets(void)
{
	__u32 at = bpf_core_field_offset(struct bpf_array, pptrs), zero = 0;
	__u64 pointer;

	if (at > sizeof(probe_map) - sizeof(pointer) ||
	    bpf_probe_read_kernel(probe_map, at + sizeof(pointer), &phantom_probe))
		return false;
	pointer = *(__u64 *)(probe_map + at);
	for (__u32 cpu = 0; cpu < machine.cpus && cpu < MAX_CPUS; cpu++) {
		void *there = bpf_map_lookup_percpu_elem(&phantom_probe, &zero, cpu);

		if (!there)
			continue; /* a number without a CPU: its offset 0 reads as nothing */
		/* By way of memory, which makes it a plain number to the verifier. */
		*(volatile __u64 *)&cpu_offsets[cpu] = (__u64)there;
		cpu_offsets[cpu] = *(volatile __u64 *)&cpu_offsets[cpu] - pointer;
	}
	return true;
}

static __always_inline __u64 read_u64(__u64 address)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (const void *)address);
	return value;
}

/* The id by which a cgroup is known outside: the inode number of its directory. */
static __always_inline __u64 cgroup_id(__u64 address)
{
	const struct cgroup *cgroup = (const void *)address;

	return BPF_CORE_READ(cgroup, kn, id);
}

/*
 * Nanoseconds of CPU time all tasks of the cgroup have used. The scheduler adds to this at each
 * tick and switch whether or not a cpu controller is there.
 */
static __noinline __u64 cgroup_cpu_ns(__u64 address)
{
	const struct cgroup *cgroup = (const void *)address;
	__u64 base, field, sum = 0;

	if (bpf_core_field_exists(cgroup->rstat_base_cpu)) {
		base = (__u64)BPF_CORE_READ(cgroup, rstat_base_cpu);
		field = bpf_core_field_offset(struct cgroup_rstat_base_cpu, bstat);
	} else {
		const struct cgroup___before_6_16 *old = (const void *)address;

		base = (__u64)BPF_CORE_READ(old, rstat_cpu);
		field = bpf_core_field_offset(struct cgroup_rstat_cpu, bstat);
	}
	if (!base)
		return 0;
	field += bpf_core_field_offset(struct cgroup_base_stat, cputime);
	field += bpf_core_field_offset(struct task_cputime, sum_exec_runtime);
	for (__u32 cpu = 0; cpu < machine.cpus && cpu < MAX_CPUS; cpu++)
		if (cpu_offsets[cpu])
			sum += read_u64(base + field + cpu_offsets[cpu]);
	return sum;
}

/* Pages of one kind: the counter's own part and what each CPU has not yet added to it. */
static __noinline __s64 counter_sum(__u64 address)
{
	const struct percpu_counter *counter = (const void *)address;
	__s64 sum = BPF_CORE_READ(counter, count);
	__u64 base = (__u64)BPF_CORE_READ(counter, counters);
	__s32 part;

	if (!base)
		return sum;
	for (__u32 cpu = 0; cpu < machine.cpus && cpu < MAX_CPUS; cpu++)
		if (cpu_offsets[cpu] &&
		    !bpf_probe_read_kernel(&part, sizeof(part),
					   (const void *)(base + cpu_offsets[cpu])))
			sum += part;
	return sum;
}

/*
 * What the process holds in memory for itself: anonymous and shared-memory pages. Pages of files
 * do not count: a thousand processes that run one program share them, and the kernel can drop
 * them at any time.
 */
static __always_inline __s64 resident_pages(const struct mm_struct *mm)
{
	if (bpf_core_type_exists(struct mm_rss_stat)) {
		const struct mm_struct___before_6_2 *old = (const void *)mm;

		return BPF_CORE_READ(old, rss_stat.count[MM_ANONPAGES].counter) +
		       BPF_CORE_READ(old, rss_stat.count[MM_SHMEMPAGES].counter);
	}
	return counter_sum((__u64)__builtin_preserve_access_index(&mm->rss_stat[MM_ANONPAGES])) +
	       counter_sum((__u64)__builtin_preserve_access_index(&mm->rss_stat[MM_SHMEMPAGES]));
}

/* What the kernel keeps of a task as long as it lives. */
struct task_sums {
	__u64 delay_ns;    /* ready to run, and waiting for a CPU */
	__u64 disk_bytes;  /* read from block devices, and written for them */
};

static __always_inline void add_task(struct task_sums *sums, const struct task_struct *task)
{
	if (bpf_core_field_exists(task->sched_info.run_delay))
		sums->delay_ns += BPF_CORE_READ(task, sched_info.run_delay);
	if (bpf_core_field_exists(task->ioac.read_bytes))
		sums->disk_bytes += BPF_CORE_READ(task, ioac.read_bytes) +
				    BPF_CORE_READ(task, ioac.write_bytes);
}

/*
 * A walk over the tasks of a cgroup: all its css_sets, and the task list of each.
 *
 * Must not lie on the stack: verifiers before Linux 6.7 follow a bpf_loop callback for one round
 * only, take what the stack holds then for constant, and cut away the rest of the callback. So the
 * stack holds a pointer to it, which is constant.
 */
struct walk {
	__u64 cgroup;
	__u64 links;      /* head of the list of links to css_sets */
	__u64 link;       /* where in that list */
	__u64 set;        /* the css_set at hand, or 0 */
	__u64 node;       /* where in its list of tasks */
	__u64 pages;
	__u64 bytes;      /* the same, at the end */
	__u64 processes;
	struct task_sums alive;
	__u64 torn;       /* a list changed under the walk: the sums mean nothing */
};

static __always_inline long torn(struct walk *w)
{
	w->torn = 1;
	return 1;
}

/* Steps to the next css_set. The addresses of freed links fail one of the checks. */
static __always_inline long next_set(struct walk *w)
{
	const struct list_head *link = (const void *)w->link;
	const struct css_set *set;
	__u64 entry;

	w->link = (__u64)BPF_CORE_READ(link, next);
	if (w->link == w->links)
		return 1; /* the end */
	entry = w->link - bpf_core_field_offset(struct cgrp_cset_link, cset_link);
	set = BPF_CORE_READ((const struct cgrp_cset_link *)entry, cset);
	if (!set || (__u64)BPF_CORE_READ(set, dfl_cgrp) != w->cgroup)
		return torn(w);
	w->set = (__u64)set;
	w->node = (__u64)BPF_CORE_READ(set, tasks.next);
	return 0;
}

/*
 * One task. Its address space counts if it is the owner's: so threads and a child between vfork
 * and exec do not count it again. A task on its way out leaves the list, and then either points to
 * itself or belongs to no css_set; both end the walk as torn.
 */
static long walk_step(__u32 index, void *context)
{
	struct walk *w = *(struct walk **)context;
	const struct task_struct *task;
	const struct mm_struct *mm;
	__u64 here = w->node;
	__s64 pages;

	if (!w->set)
		return next_set(w);
	if (here == w->set + bpf_core_field_offset(struct css_set, tasks)) {
		w->set = 0;
		return 0;
	}
	task = (const void *)(here - bpf_core_field_offset(struct task_struct, cg_list));
	if ((__u64)BPF_CORE_READ(task, cgroups) != w->set)
		return torn(w);
	w->node = (__u64)BPF_CORE_READ((const struct list_head *)here, next);
	if (w->node == here)
		return torn(w);

	/* On its way out it is counted where it says so; it may have. */
	if (!(BPF_CORE_READ(task, flags) & PF_EXITING))
		add_task(&w->alive, task);

	mm = BPF_CORE_READ(task, mm);
	if (!mm)
		return 0;
	if (bpf_core_field_exists(mm->owner)) {
		if (BPF_CORE_READ(mm, owner) != task)
			return 0;
	} else if (BPF_CORE_READ(task, group_leader) != task) {
		return 0;
	}
	pages = resident_pages(mm);
	if (BPF_CORE_READ(task, mm) != mm)
		return 0; /* exited meanwhile: what was read may be of someone else */
	if (pages > 0)
		w->pages += pages;
	w->processes++;
	return 0;
}

/*
 * Sums up what the cgroup's living tasks and processes have. False if the lists did not hold still. A
 * cgroup of more than MAX_STEPS tasks gives the sum of the first ones.
 */
static __noinline bool walk_tasks(struct walk *w, __u64 address)
{
	__builtin_memset(w, 0, sizeof(*w));
	w->cgroup = address;
	w->links = address + bpf_core_field_offset(struct cgroup, cset_links);
	w->link = w->links;
	bpf_loop(MAX_STEPS, walk_step, &w, 0);
	w->bytes = w->pages * machine.page_bytes;
	return !w->torn;
}
