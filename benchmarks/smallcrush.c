/* TestU01's SmallCrush on words of 32 bits from stdin.  One line: p-values, how many are beyond 1e-6 of either
   end, the one that is nearest to an end, its test; then a line for each that is beyond.  Exit code 1 if any is, 2 if
   the words end too early. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <bbattery.h>
#include <swrite.h>
#include <unif01.h>

#define LEVEL 1e-6

static uint32_t words[1 << 16];
static size_t have, next;

static unsigned int read_word(void)
{
    if (next == have) {
        have = fread(words, sizeof words[0], sizeof words / sizeof words[0], stdin);
        next = 0;
        if (have == 0) {
            fprintf(stderr, "smallcrush: expected some 5e7 words on stdin; they ended\n");
            exit(2);
        }
    }
    return words[next++];
}

/* A p-value, as its distance from the nearer end. */
static const char *shown(double p, char *text, size_t size)
{
    snprintf(text, size, p < 0.5 ? "%.2g" : "1 - %.2g", p < 0.5 ? p : 1.0 - p);
    return text;
}

int main(void)
{
    double worst = 1.0;
    int beyond = 0, where = 0;
    char text[32];
    /* TestU01 writes its report to stdout: it goes to stderr, the lines below to where stdout was. */
    FILE *out = fdopen(dup(1), "w");
    if (out == NULL || dup2(2, 1) < 0)
        return 2;
    swrite_Basic = FALSE;
    unif01_Gen *gen = unif01_CreateExternGenBits("stdin", read_word);
    bbattery_SmallCrush(gen);
    unif01_DeleteExternGenBits(gen);
    for (int i = 0; i < bbattery_NTests; i++) {
        double p = bbattery_pVal[i], end = p < 0.5 ? p : 1.0 - p;
        beyond += end < LEVEL;
        if (end < worst) {
            worst = end;
            where = i;
        }
    }
    fprintf(out, "%d\t%d\t%s\t%s\n", bbattery_NTests, beyond, shown(bbattery_pVal[where], text, sizeof text),
            bbattery_TestNames[where]);
    for (int i = 0; i < bbattery_NTests; i++) {
        double p = bbattery_pVal[i];
        if (p < LEVEL || 1.0 - p < LEVEL)
            fprintf(out, "\t\t%s\t%s\n", shown(p, text, sizeof text), bbattery_TestNames[i]);
    }
    return beyond > 0;
}
