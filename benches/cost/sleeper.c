/* A server that costs as little as a server can, so that what is measured is not its own: it and N - 1 children that wait for
   ever. From ten on, every tenth has a session of its own, as helpers have that no kill of a process group reaches. It says
   "up" on its stdout once all of them wait. Its stdin is never read. */

#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int wanted = argc > 1 ? atoi(argv[1]) : 1, waits[2];
    char byte = 0;
    if (pipe(waits) != 0)
        return 1;
    for (int child = 2; child <= wanted; child++) {
        int pid = fork();
        if (pid < 0)
            return 1;
        if (pid > 0)
            continue;
        if (child % 10 == 0)
            setsid();
        if (write(waits[1], &byte, 1) != 1)
            return 1;
        for (;;)
            pause();
    }
    for (int child = 2; child <= wanted; child++)
        if (read(waits[0], &byte, 1) != 1)
            return 1;
    if (write(1, "up\n", 3) != 3)
        return 1;
    for (;;)
        pause();
}
