/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a limit is exceeded: pure functions of the time and of what was read.
 *
 * Nothing here reads a clock or the kernel, so the tests can run the very same code in virtual
 * time (phantom_replay).
 *
 * CPU: the mean over the last `width_ns`. The cumulative CPU time is kept at marks, at least
 * width/124 apart, and the time at the start of the window lies on the line between two marks.
 * So a window of a day costs as much memory as one of a second. The window must have been
 * watched in full before it can be exceeded.
 *
 * Memory: every look during `width_ns` was above the level.
 *
 * Each step answers when the next look is due. A CPU limit cannot be exceeded before all CPUs
 * together have used up what is left of it, so an idle capsule is looked at about 124 times per
 * window (once a second at least) and only one near its limit every few milliseconds.
 */
#pragma once

enum {
	MARKS = 128,             /* a power of two */
	MARKS_PER_WINDOW = 124,
	MARKS_PER_TREND = 16,    /* an eighth of a window */
};

#define MILLISECOND 1000000ULL
#define GAP_NS (5 * MILLISECOND)        /* between two looks at least */
#define LONG_GAP_NS (20 * MILLISECOND)  /* the same for long windows */
#define IDLE_NS (1000 * MILLISECOND)    /* between two looks at most */
#define MEMORY_NS (20 * MILLISECOND)    /* between two looks at the memory of a running capsule */
#define FINE_NS (5 * MILLISECOND)       /* looks that are due about then wait for each other: */
#define COARSE_NS (25 * MILLISECOND)    /* all capsules share one wake-up */
#define MEMORY_SHARE 100                /* looking at memory takes 1/100 of a core at most */
#define NO_LIMIT (~0ULL)

/* It counts as below again once it has fallen this far below its level. */
static inline __u64 rearm_level(__u64 level)
{
	return level - level / 10;
}

static inline __u64 min_u64(__u64 a, __u64 b)
{
	return a < b ? a : b;
}

static inline __u64 max_u64(__u64 a, __u64 b)
{
	return a > b ? a : b;
}

/* A limit: CPU nanoseconds used in a window, or resident bytes; and the window. */
struct limit {
	__u64 level;
	__u64 width_ns;
};

/* A thousandth of the window, within bounds. */
static inline __u64 gap_ns(const struct limit *limit)
{
	return min_u64(max_u64(limit->width_ns / 1000, GAP_NS), LONG_GAP_NS);
}

struct mark {
	__u64 at_ns;
	__u64 cpu_ns;    /* CPU time used until then */
};

static inline __u64 align_up(__u64 time_ns, __u64 grid_ns)
{
	return (time_ns + grid_ns - 1) / grid_ns * grid_ns;
}

struct cpu_window {
	__u64 head;         /* marks made so far */
	__u64 tail;         /* the last mark at or before the start of the window */
	__u64 begin_ns;     /* first look */
	__u64 seen_ns;      /* last look */
	__u64 cpu_ns;       /* CPU time used until then */
	__u64 use_ns;       /* CPU time used in the window that ended then */
	__u64 peak_use_ns;  /* highest of a full window */
	__u64 since_ns;     /* since when an eighth of the window has been above the level, or 0 */
	__u64 crossed_ns;   /* when the level was crossed */
	__u64 over;         /* reported as exceeded */
	struct mark marks[MARKS];
};

struct memory_watch {
	__u64 seen_ns;         /* last look */
	__u64 seen_cpu_ns;     /* CPU time used until then */
	__u64 cost_ns;         /* what that look took */
	__u64 resident_bytes;
	__u64 peak_bytes;
	__u64 processes;
	__u64 since_ns;        /* first look above the level without a break, or 0 */
	__u64 over;            /* reported as exceeded */
};

/* When the next mark is made. */
static inline __u64 mark_due(__u64 last_ns, __u64 spacing_ns)
{
	return align_up(last_ns + spacing_ns, spacing_ns < 2 * COARSE_NS ? FINE_NS : COARSE_NS);
}

/* `due_ns`, but neither too soon nor too late after `now`. */
static inline __u64 bounded_due(__u64 due_ns, __u64 now, const struct limit *limit)
{
	due_ns = max_u64(due_ns, now + gap_ns(limit));
	return min_u64(due_ns, align_up(now + IDLE_NS, COARSE_NS));
}

static inline struct mark *mark_at(struct cpu_window *w, __u64 number)
{
	return &w->marks[number & (MARKS - 1)];
}

/* CPU time used until `start`, which lies between the tail and the mark after it (or now). */
static __noinline __u64 cpu_at(struct cpu_window *w, __u64 start)
{
	struct mark *from = mark_at(w, w->tail);
	__u64 to_ns = w->seen_ns, to_cpu_ns = w->cpu_ns;
	__u64 share;

	if (w->tail + 1 < w->head) {
		struct mark *to = mark_at(w, w->tail + 1);

		to_ns = to->at_ns;
		to_cpu_ns = to->cpu_ns;
	}
	if (start <= from->at_ns || to_ns <= from->at_ns)
		return from->cpu_ns;
	/* In 1/65536 of the distance: the products stay below 2^64 for 4096 CPUs and a day. */
	share = ((start - from->at_ns) << 16) / (to_ns - from->at_ns);
	return from->cpu_ns + (((to_cpu_ns - from->cpu_ns) >> 8) * share >> 8);
}

/* Whether more than the level was used in the last eighth of a window, and since when. */
static __noinline void cpu_trend(struct cpu_window *w, const struct limit *limit)
{
	__u64 first = w->head > MARKS_PER_TREND ? w->head - 1 - MARKS_PER_TREND : 0;
	struct mark *from = mark_at(w, first);
	__u64 share = limit->level / (limit->width_ns >> 10); /* cores in 1/1024 */
	__u64 allowed_ns = ((w->seen_ns - from->at_ns) >> 10) * share;

	if (limit->level == NO_LIMIT || w->cpu_ns - from->cpu_ns <= allowed_ns)
		w->since_ns = 0;
	else if (!w->since_ns)
		w->since_ns = from->at_ns;
}

/* One look at `now`: `cpu_ns` of CPU time were used so far. Returns when the next one is due. */
static __noinline __u64 cpu_step(struct cpu_window *w, __u64 now, __u64 cpu_ns,
				 const struct limit *limit, __u64 cpus)
{
	__u64 level_ns = limit->level, width_ns = limit->width_ns;
	__u64 spacing_ns = width_ns / MARKS_PER_WINDOW;
	__u64 start, before_ns = w->seen_ns, before_use_ns = w->use_ns, due;

	if (!w->head) {
		w->begin_ns = w->seen_ns = now;
		w->cpu_ns = cpu_ns;
		w->marks[0].at_ns = now;
		w->marks[0].cpu_ns = cpu_ns;
		w->head = 1;
		return bounded_due(mark_due(now, spacing_ns), now, limit);
	}
	w->seen_ns = now;
	w->cpu_ns = max_u64(w->cpu_ns, cpu_ns);

	start = now > width_ns ? now - width_ns : 0;
	for (int i = 0; i < MARKS; i++) {
		if (w->tail + 1 >= w->head || mark_at(w, w->tail + 1)->at_ns > start)
			break;
		w->tail++;
	}
	w->use_ns = w->cpu_ns - min_u64(w->cpu_ns, cpu_at(w, start));

	if (now - mark_at(w, w->head - 1)->at_ns >= spacing_ns) {
		struct mark *mark = mark_at(w, w->head);

		mark->at_ns = now;
		mark->cpu_ns = w->cpu_ns;
		w->head++;
		cpu_trend(w, limit);
	}
	due = mark_due(mark_at(w, w->head - 1)->at_ns, spacing_ns);

	if (now - w->begin_ns < width_ns) {
		due = min_u64(due, w->begin_ns + width_ns);
	} else {
		w->peak_use_ns = max_u64(w->peak_use_ns, w->use_ns);
		if (w->use_ns <= level_ns) {
			w->crossed_ns = 0;
			due = min_u64(due, now + (level_ns - w->use_ns) / cpus);
		} else if (!w->crossed_ns) {
			/* On the line between this look and the one before. */
			__u64 rise_ns = w->use_ns - min_u64(w->use_ns, before_use_ns);
			__u64 excess_ns = min_u64(w->use_ns - level_ns, rise_ns);

			w->crossed_ns = now;
			if (rise_ns)
				w->crossed_ns -= (now - before_ns) * (excess_ns >> 16) /
						 ((rise_ns >> 16) + 1);
			w->crossed_ns = max_u64(w->crossed_ns, w->begin_ns + width_ns);
		}
	}
	return bounded_due(due, now, limit);
}

/* Whether an excursion has to be reported now. */
static inline bool cpu_begins(struct cpu_window *w, __u64 now, const struct limit *limit)
{
	return !w->over && w->use_ns > limit->level && now - w->begin_ns >= limit->width_ns;
}

/* Whether its end has to be reported now. */
static inline bool cpu_ends(struct cpu_window *w, const struct limit *limit)
{
	return w->over && w->use_ns <= rearm_level(limit->level);
}

/*
 * When memory has to be looked at. Resident memory can grow fast (a fork doubles it in a moment)
 * but not while nobody runs, so a capsule that used no CPU since the last look is left alone for
 * a second. Shrinking needs nobody to run, so an excursion that is not yet reported is looked at
 * until it is.
 */
static inline __u64 memory_due(struct memory_watch *m, __u64 cpu_ns, const struct limit *limit)
{
	__u64 pause_ns = max_u64(MEMORY_NS, m->cost_ns * MEMORY_SHARE);
	__u64 due;

	if (!m->seen_ns)
		return 0;
	due = m->seen_ns + pause_ns;
	if (m->since_ns && !m->over)
		return min_u64(due, max_u64(m->since_ns + limit->width_ns, m->seen_ns + GAP_NS));
	if (limit->level == NO_LIMIT || cpu_ns == m->seen_cpu_ns || m->over)
		return max_u64(due, m->seen_ns + IDLE_NS);
	return due;
}

/* One look at `now`. */
static inline void memory_step(struct memory_watch *m, __u64 now, __u64 cpu_ns, __u64 bytes,
			       const struct limit *limit)
{
	m->seen_ns = now;
	m->seen_cpu_ns = cpu_ns;
	m->resident_bytes = bytes;
	m->peak_bytes = max_u64(m->peak_bytes, bytes);
	if (bytes <= limit->level)
		m->since_ns = 0;
	else if (!m->since_ns)
		m->since_ns = now;
}

static inline bool memory_begins(struct memory_watch *m, __u64 now, const struct limit *limit)
{
	return !m->over && m->since_ns && now - m->since_ns >= limit->width_ns;
}

static inline bool memory_ends(struct memory_watch *m, const struct limit *limit)
{
	return m->over && m->resident_bytes <= rearm_level(limit->level);
}
