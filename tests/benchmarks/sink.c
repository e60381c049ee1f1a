/* A mail server that costs little: it accepts all, keeps nothing, and counts.
 *
 * sink EXTENSIONS [LATENCY [trace]]: EHLO keywords, comma between; microseconds until each batch of replies is sent.
 * It listens on a port of 127.0.0.1, prints it, and serves until its standard input ends, so it ends with its parent.
 * Then it prints one line of JSON: what it counted ("distinct": from how many different senders s<number>@ mails were
 * accepted, so that one which came twice is found); with "trace" also when (seconds) how many octets of mail came, and
 * when each mail had ended.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 262144, LINE = 4096, HISTORY = 4, EVENTS = 256, NUMBERS = 1 << 20 };
enum mode { COMMAND, DATA, BDAT };

struct text {
    char *octets;
    size_t used, room;
};

struct session {
    int fd, closing, blocked;
    unsigned long number; /* file descriptors are used again, numbers are not */
    enum mode mode;
    unsigned long long left; /* octets of this BDAT */
    int last;                /* it ends the mail */
    unsigned recipients;     /* of this transaction */
    unsigned long from;      /* the number of its sender */
    size_t held;             /* octets of an unfinished line */
    char line[LINE], history[HISTORY];
    struct text replies;
};

struct batch { /* replies on their way */
    struct timespec due;
    struct session *session;
    unsigned long number;
    struct text replies;
    struct batch *next;
};

static struct {
    unsigned long long sessions, mails, distinct, recipients, octets, batches;
} counted;

static const char NOBODY[] = "503 5.5.1 No recipients\r\n";
static unsigned char seen[NUMBERS]; /* senders */
static char buffer[HISTORY + PIECE], greeting[1024];
static struct session *sessions;
static struct batch *first, **last = &first;
static long latency; /* microseconds */
static int poller, timer, tracing;
static struct trace {
    struct { double at; size_t octets; } *entries;
    size_t used, room;
} trace, ended;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct timespec now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at;
}

static void append(struct text *text, const char *octets, size_t size) {
    if (text->used + size > text->room) {
        text->room = 2 * (text->used + size);
        if (!(text->octets = realloc(text->octets, text->room))) fail("realloc");
    }
    memcpy(text->octets + text->used, octets, size);
    text->used += size;
}

static void reply(struct session *session, const char *line) { append(&session->replies, line, strlen(line)); }

static void note(struct trace *trace, size_t octets) {
    if (!tracing) return;
    if (trace->used == trace->room) {
        trace->room = trace->room ? 2 * trace->room : 4096;
        if (!(trace->entries = realloc(trace->entries, trace->room * sizeof *trace->entries))) fail("realloc");
    }
    struct timespec at = now();
    trace->entries[trace->used].at = at.tv_sec + at.tv_nsec / 1e9;
    trace->entries[trace->used++].octets = octets;
}

static void arrived(size_t octets) {
    counted.octets += octets;
    if (octets) note(&trace, octets);
}

static void taken(struct session *session) {
    counted.mails++;
    if (session->from < NUMBERS && !seen[session->from]) counted.distinct += seen[session->from] = 1;
    session->recipients = 0;
    note(&ended, 0);
}

static void watch(struct session *session, int blocked, int how) {
    struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.ptr = session};
    session->blocked = blocked;
    if (epoll_ctl(poller, how, session->fd, &event)) fail("epoll_ctl");
}

static void end(struct session *session) {
    close(session->fd);
    free(session->replies.octets);
    memset(session, 0, sizeof *session);
    session->fd = -1;
}

/* Send what waits; what the kernel does not take waits for it. */
static void flush(struct session *session) {
    ssize_t sent = send(session->fd, session->replies.octets, session->replies.used, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) return end(session);
    if (sent > 0) memmove(session->replies.octets, session->replies.octets + sent, session->replies.used -= sent);
    int blocked = session->replies.used > 0;
    if (!blocked && session->closing) return end(session);
    if (blocked != session->blocked) watch(session, blocked, EPOLL_CTL_MOD);
}

/* Arm the timer for the batch that is due next: they are due in the order they were made. */
static void arm(void) {
    struct itimerspec when = {.it_value = first ? first->due : (struct timespec){0}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL)) fail("timerfd_settime");
}

static void answer(struct session *session) {
    if (!session->replies.used) return;
    counted.batches++;
    if (!latency) return flush(session);
    struct batch *batch = calloc(1, sizeof *batch);
    if (!batch) fail("calloc");
    batch->due = now();
    batch->due.tv_nsec += latency * 1000;
    batch->due.tv_sec += batch->due.tv_nsec / 1000000000;
    batch->due.tv_nsec %= 1000000000;
    batch->session = session, batch->number = session->number, batch->replies = session->replies;
    memset(&session->replies, 0, sizeof session->replies);
    *last = batch, last = &batch->next;
    if (first == batch) arm();
}

static void deliver(void) {
    unsigned long long expired;
    if (read(timer, &expired, sizeof expired) < 0 && errno != EAGAIN) fail("read");
    struct timespec at = now();
    while (first && (first->due.tv_sec < at.tv_sec ||
                     (first->due.tv_sec == at.tv_sec && first->due.tv_nsec <= at.tv_nsec))) {
        struct batch *batch = first;
        if (!(first = batch->next)) last = &first;
        if (batch->session->number == batch->number) {
            append(&batch->session->replies, batch->replies.octets, batch->replies.used);
            flush(batch->session);
        }
        free(batch->replies.octets);
        free(batch);
    }
    arm();
}

static void command(struct session *session, char *line) {
    if (!strncasecmp(line, "MAIL", 4) || !strncasecmp(line, "RSET", 4) || !strncasecmp(line, "HELO", 4)) {
        session->recipients = 0;
        session->from = strncasecmp(line, "MAIL FROM:<s", 12) ? NUMBERS : strtoul(line + 12, NULL, 10);
        reply(session, "250 2.0.0 Ok\r\n");
    } else if (!strncasecmp(line, "RCPT", 4)) {
        counted.recipients++;
        session->recipients++;
        reply(session, "250 2.1.5 Ok\r\n");
    } else if (!strncasecmp(line, "DATA", 4) && !session->recipients) {
        reply(session, NOBODY);
    } else if (!strncasecmp(line, "DATA", 4)) {
        session->mode = DATA;
        reply(session, "354 Go on\r\n");
    } else if (!strncasecmp(line, "BDAT ", 5)) {
        char *rest;
        session->left = strtoull(line + 5, &rest, 10);
        session->last = strcasestr(rest, "LAST") != NULL;
        session->mode = BDAT;
    } else if (!strncasecmp(line, "EHLO", 4)) {
        reply(session, greeting);
    } else if (!strncasecmp(line, "QUIT", 4)) {
        session->closing = 1;
        reply(session, "221 2.0.0 Bye\r\n");
    } else {
        reply(session, "500 5.5.1 What?\r\n");
    }
}

/* Octets of mail data by DATA, up to its end mark. The four octets before ``at`` are those that came before. */
static char *mail_data(struct session *session, char *at, char *stop) {
    for (char *dot = at - 2; (dot = memchr(dot, '.', stop - dot)) && dot + 2 < stop; dot++) {
        if (dot[-2] == '\r' && dot[-1] == '\n' && dot[1] == '\r' && dot[2] == '\n') {
            session->mode = COMMAND;
            arrived(dot + 3 - at);
            taken(session);
            reply(session, "250 2.0.0 Ok\r\n");
            return dot + 3;
        }
    }
    arrived(stop - at);
    return stop;
}

static char *chunk(struct session *session, char *at, char *stop) {
    size_t size = stop - at;
    if (size > session->left) size = session->left;
    session->left -= size;
    arrived(size);
    if (!session->left) {
        session->mode = COMMAND;
        reply(session, session->recipients ? "250 2.0.0 Ok\r\n" : NOBODY);
        if (session->recipients && session->last) taken(session);
    }
    return at + size;
}

static char *lines(struct session *session, char *at, char *stop) {
    char *feed = memchr(at, '\n', stop - at);
    size_t size = (feed ? feed + 1 : stop) - at;
    if (session->held + size >= LINE) {
        reply(session, "500 5.5.2 Line too long\r\n");
        session->held = 0;
        return at + size;
    }
    memcpy(session->line + session->held, at, size);
    session->held += size;
    if (feed) {
        session->line[session->held] = 0;
        session->held = 0;
        command(session, session->line);
    }
    return at + size;
}

static void serve(struct session *session) {
    ssize_t got = recv(session->fd, buffer + HISTORY, PIECE, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return end(session);
    char *at = buffer + HISTORY, *stop = at + got;
    memcpy(buffer, session->history, HISTORY);
    while (at < stop || (session->mode == BDAT && !session->left)) {
        at = session->mode == DATA ? mail_data(session, at, stop)
             : session->mode == BDAT ? chunk(session, at, stop)
                                     : lines(session, at, stop);
    }
    memcpy(session->history, stop - HISTORY, HISTORY);
    answer(session);
}

static void welcome(int listener, int most) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) return;
    if (fd >= most) fail("too many sessions");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct session *session = &sessions[fd];
    session->fd = fd;
    session->number = ++counted.sessions;
    watch(session, 0, EPOLL_CTL_ADD);
    reply(session, "220 sink.example ESMTP\r\n");
    answer(session);
}

static void tell(void) {
    printf("{\"sessions\": %llu, \"mails\": %llu, \"distinct\": %llu, \"recipients\": %llu, \"octets\": %llu, "
           "\"batches\": %llu, \"trace\": [",
           counted.sessions, counted.mails, counted.distinct, counted.recipients, counted.octets, counted.batches);
    for (size_t at = 0; at < trace.used; at++)
        printf("%s[%.6f, %zu]", at ? ", " : "", trace.entries[at].at, trace.entries[at].octets);
    printf("], \"ended\": [");
    for (size_t at = 0; at < ended.used; at++) printf("%s%.6f", at ? ", " : "", ended.entries[at].at);
    printf("]}\n");
}

int main(int count, char **words) {
    if (count < 2) return fprintf(stderr, "sink EXTENSIONS [LATENCY [trace]]\n"), 2;
    latency = count > 2 ? atol(words[2]) : 0;
    tracing = count > 3;
    strcpy(greeting, "250");
    for (char *keyword = strtok(words[1], ","); keyword; keyword = strtok(NULL, ","))
        snprintf(strchr(greeting, 0), 128, "%s%s\r\n250", greeting[3] ? "-" : "-sink.example\r\n250-", keyword);
    strcat(greeting, greeting[3] ? " HELP\r\n" : " sink.example\r\n");

    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < 65536 ? files.rlim_max : 65536;
    setrlimit(RLIMIT_NOFILE, &files);
    if (!(sessions = calloc(files.rlim_cur, sizeof *sessions))) fail("calloc");

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) fail("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &size)) fail("getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    int parent = STDIN_FILENO, *others[] = {&parent, &listener, &timer};
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    for (size_t at = 0; at < sizeof others / sizeof *others; at++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = others[at]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, *others[at], &event)) fail("epoll_ctl");
    }
    for (;;) {
        struct epoll_event events[EVENTS];
        int happened = epoll_wait(poller, events, EVENTS, -1);
        for (int at = 0; at < happened; at++) {
            void *what = events[at].data.ptr;
            if (what == &parent) return tell(), 0;
            if (what == &timer) {
                deliver();
            } else if (what == &listener) {
                welcome(listener, files.rlim_cur);
            } else {
                struct session *session = what;
                if (session->number && events[at].events & EPOLLOUT) flush(session);
                if (session->number && events[at].events & ~EPOLLOUT) serve(session);
            }
        }
    }
}
