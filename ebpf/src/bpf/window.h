/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a limit is exceeded: pure functions of the time and of what was read.
 *
 * Nothing here reads a clock or the kernel, so the tests can run the very same code in virtual
 * time (phantom_replay).
 *
 * A meter, for what only grows (CPU time, run-queue delay, bytes): how much it grew in the last
 * `width_ns`. Its value is kept at marks, at least width/124 apart, and the value at the start of
 * the window lies on the line between two marks. So a window of a day costs as much memory as one
 * of a second. The window must have been watched in full before it can be exceeded.
 *
 * Memory: every look during `width_ns` was above the level.
 *
 * Each step answers when the next look is due. A CPU limit cannot be exceeded before all CPUs
 * together have used up what is left of it, so an idle capsule is looked at about 124 times per
 * window (once a second at least) and only one near its limit every few milliseconds. How fast the
 * others grow nobody knows: with a limit they are looked at every 25 ms.
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
#define MEMORY_SHARE 100                /* looking at memory takes 1/100 of a core at most, */
#define WALK_NS (5000 * MILLISECOND)    /* but happens this often: one slow look must not blind */
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

/* A limit: nanoseconds or bytes that a meter may grow in a window, or resident bytes; and the
 * window. */
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
	__u64 value;
};

static inline __u64 align_up(__u64 time_ns, __u64 grid_ns)
{
	return (time_ns + grid_ns - 1) / grid_ns * grid_ns;
}

struct meter {
	__u64 serial;       /* the order it belongs to */
	__u64 head;         /* marks made so far */
	__u64 tail;         /* the last mark at or before the start of the window */
	__u64 begin_ns;     /* first look */
	__u64 seen_ns;      /* last look */
	__u64 value;        /* then */
	__u64 growth;       /* in the window that ended then */
	__u64 peak;         /* highest growth of a full window */
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

static inline struct mark *mark_at(struct meter *m, __u64 number)
{
	return &m->marks[number & (MARKS - 1)];
}

/* The value at `start`, which lies between the tail and the mark after it (or now). */
static __noinline __u64 value_at(struct meter *m, __u64 start)
{
	struct mark *from = mark_at(m, m->tail);
	__u64 to_ns = m->seen_ns, to_value = m->value;
	__u64 share;

	if (m->tail + 1 < m->head) {
		struct mark *to = mark_at(m, m->tail + 1);

		to_ns = to->at_ns;
		to_value = to->value;
	}
	if (start <= from->at_ns || to_ns <= from->at_ns)
		return from->value;
	/* In 1/65536 of the distance: the products stay below 2^64 for 4096 CPUs and a day. */
	share = ((start - from->at_ns) << 16) / (to_ns - from->at_ns);
	return from->value + (((to_value - from->value) >> 8) * share >> 8);
}

/* Whether it grew by more than the level in the last eighth of a window, and since when. */
static __noinline void meter_trend(struct meter *m, const struct limit *limit)
{
	__u64 first = m->head > MARKS_PER_TREND ? m->head - 1 - MARKS_PER_TREND : 0;
	struct mark *from = mark_at(m, first);
	__u64 level = limit->level;
	__u64 share = ((m->seen_ns - from->at_ns) << 10) / limit->width_ns; /* of the window */
	__u64 allowed = (level >> 10) * share + ((level & 1023) * share >> 10);

	if (level == NO_LIMIT || m->value - from->value <= allowed)
		m->since_ns = 0;
	else if (!m->since_ns)
		m->since_ns = from->at_ns;
}

/*
 * One look at `now`. In a nanosecond the value grows by `speed` at most; 0: nobody knows. Returns
 * when the next look is due.
 */
static __noinline __u64 meter_step(struct meter *m, __u64 now, __u64 value,
				   const struct limit *limit, __u64 speed)
{
	__u64 level = limit->level, width_ns = limit->width_ns;
	__u64 spacing_ns = width_ns / MARKS_PER_WINDOW;
	__u64 start, before_ns = m->seen_ns, before = m->growth, due;

	if (!m->head) {
		m->begin_ns = m->seen_ns = now;
		m->value = value;
		m->marks[0].at_ns = now;
		m->marks[0].value = value;
		m->head = 1;
		return bounded_due(mark_due(now, spacing_ns), now, limit);
	}
	m->seen_ns = now;
	m->value = max_u64(m->value, value);

	start = now > width_ns ? now - width_ns : 0;
	for (int i = 0; i < MARKS; i++) {
		if (m->tail + 1 >= m->head || mark_at(m, m->tail + 1)->at_ns > start)
			break;
		m->tail++;
	}
	m->growth = m->value - min_u64(m->value, value_at(m, start));

	if (now - mark_at(m, m->head - 1)->at_ns >= spacing_ns) {
		struct mark *mark = mark_at(m, m->head);

		mark->at_ns = now;
		mark->value = m->value;
		m->head++;
		meter_trend(m, limit);
	}
	due = mark_due(mark_at(m, m->head - 1)->at_ns, spacing_ns);

	if (now - m->begin_ns < width_ns) {
		due = min_u64(due, m->begin_ns + width_ns);
	} else {
		m->peak = max_u64(m->peak, m->growth);
		if (m->growth <= level) {
			m->crossed_ns = 0;
			if (level == NO_LIMIT)
				; /* nothing to be late for */
			else if (speed)
				due = min_u64(due, now + (level - m->growth) / speed);
			else
				due = min_u64(due, align_up(now + 1, COARSE_NS));
		} else if (!m->crossed_ns) {
			/* On the line between this look and the one before. */
			__u64 rise = m->growth - min_u64(m->growth, before);
			__u64 excess = min_u64(m->growth - level, rise);
			__u64 share = excess >> 46 ? 0 : (excess << 16) / (rise + 1);

			m->crossed_ns = now - ((now - before_ns) >> 8) * share / 256;
			m->crossed_ns = max_u64(m->crossed_ns, m->begin_ns + width_ns);
		}
	}
	return bounded_due(due, now, limit);
}

/* Whether an excursion has to be reported now. */
static inline bool meter_begins(struct meter *m, __u64 now, const struct limit *limit)
{
	return !m->over && m->growth > limit->level && now - m->begin_ns >= limit->width_ns;
}

/* Whether its end has to be reported now. */
static inline bool meter_ends(struct meter *m, const struct limit *limit)
{
	return m->over && m->growth <= rearm_level(limit->level);
}

/* Between two walks at least. */
static inline __u64 walk_pause_ns(const struct memory_watch *m)
{
	return min_u64(max_u64(MEMORY_NS, m->cost_ns * MEMORY_SHARE), WALK_NS);
}

/*
 * When the tasks have to be walked for their memory. Resident memory can grow fast (a fork doubles
 * it in a moment) but not while nobody runs, so a capsule that used no CPU since the last look is
 * left alone for a second. Shrinking needs nobody to run, so an excursion that is not yet reported
 * is looked at until it is.
 */
static inline __u64 memory_due(struct memory_watch *m, __u64 cpu_ns, const struct limit *limit)
{
	__u64 due;

	if (!m->seen_ns)
		return 0;
	due = m->seen_ns + walk_pause_ns(m);
	if (m->since_ns && !m->over)
		return min_u64(due, max_u64(m->since_ns + limit->width_ns, m->seen_ns + GAP_NS));
	if (limit->level == NO_LIMIT || cpu_ns == m->seen_cpu_ns || m->over)
		return max_u64(due, m->seen_ns + IDLE_NS);
	return due;
}

/* The same for a capsule of which other sums of the walk are limited. */
static inline __u64 walk_due(struct memory_watch *m, __u64 cpu_ns, const struct limit *limit,
			     bool others)
{
	__u64 due = memory_due(m, cpu_ns, limit);

	if (others && cpu_ns != m->seen_cpu_ns)
		due = min_u64(due, m->seen_ns + walk_pause_ns(m));
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
