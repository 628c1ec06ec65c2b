/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few kernel types the monitor reads, reduced to the fields it uses.
 *
 * Declared here instead of taken from a generated vmlinux.h, so that building needs neither
 * bpftool nor the BTF of the building machine. The loader relocates every access to the layout
 * of the running kernel (CO-RE). A name with `___suffix` is another version of the same type.
 */
#pragma once

typedef unsigned char __u8;
typedef signed int __s32;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef signed long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

enum { false = 0, true = 1 };

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_CGROUP_ARRAY = 8,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum { CLOCK_MONOTONIC = 1 };

struct bpf_timer {
	__u64 : 64;
	__u64 : 64;
} __attribute__((aligned(8)));

/* What a program on a cgroup's packets sees: the first fields of the UAPI's type. */
struct __sk_buff {
	__u32 len;
	__u32 others[9];
	__u32 ifindex;
};

struct bpf_raw_tracepoint_args {
	__u64 args[1];
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct list_head {
	struct list_head *next;
};

/* Where a per-CPU map keeps its per-CPU pointers. */
struct bpf_array {
	void *pptrs[0];
};

/* From a file descriptor to its cgroup. */

struct kernfs_node {
	void *priv;
	__u64 id;
};

struct inode {
	void *i_private;
};

struct file {
	struct inode *f_inode;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

/* CPU time of a cgroup, per CPU. */

struct task_cputime {
	unsigned long long sum_exec_runtime;
};

struct cgroup_base_stat {
	struct task_cputime cputime;
};

/* Since Linux 6.16. */
struct cgroup_rstat_base_cpu {
	struct cgroup_base_stat bstat;
};

/* Before. */
struct cgroup_rstat_cpu {
	struct cgroup_base_stat bstat;
};

struct cgroup {
	struct kernfs_node *kn;
	struct list_head cset_links;
	struct cgroup_rstat_base_cpu *rstat_base_cpu;
};

struct cgroup___before_6_16 {
	struct cgroup_rstat_cpu *rstat_cpu;
};

/* From a cgroup to the memory of its processes. */

struct css_set {
	struct cgroup *dfl_cgrp;
	struct list_head tasks;
};

struct cgrp_cset_link {
	struct css_set *cset;
	struct list_head cset_link;
};

struct percpu_counter {
	__s64 count;
	__s32 *counters;
};

/* Before Linux 6.2. */
struct mm_rss_stat {
	struct {
		__s64 counter;
	} count[4];
};

struct task_struct;

struct mm_struct {
	struct task_struct *owner;
	struct percpu_counter rss_stat[4];
};

struct mm_struct___before_6_2 {
	struct mm_rss_stat rss_stat;
};

/* Only with CONFIG_SCHED_INFO. */
struct sched_info {
	unsigned long long run_delay;
};

/* Only with CONFIG_TASK_IO_ACCOUNTING. */
struct task_io_accounting {
	__u64 read_bytes;
	__u64 write_bytes;
};

struct task_struct {
	unsigned int flags;
	struct sched_info sched_info;
	struct task_io_accounting ioac;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	struct files_struct *files;
	struct css_set *cgroups;
	struct list_head cg_list;
};

#pragma clang attribute pop

/* In task_struct.flags. */
enum { PF_EXITING = 4 };

/* Indices into rss_stat. */
enum { MM_ANONPAGES = 1, MM_SHMEMPAGES = 3 };
