/* TFLite's C library on one file, XNNPACK attached explicitly: invoke() in a loop, and what each run took.
 *
 * native MODEL THREADS SECONDS -> one line of JSON as bench/rivals/bare.py prints it. The library comes without headers;
 * what is declared here is the part of its C API (tensorflow/lite/c/c_api.h, delegates/xnnpack/xnnpack_delegate.h) that is
 * used. The delegate's options are a struct whose size changes with the version: its first field is num_threads, and the
 * library writes no more than its own size into the room that is left here.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { int32_t num_threads; char rest[508]; } XnnpackOptions;

extern const char* TfLiteVersion(void);
extern void* TfLiteModelCreateFromFile(const char* path);
extern void* TfLiteInterpreterOptionsCreate(void);
extern void TfLiteInterpreterOptionsSetNumThreads(void* options, int32_t threads);
extern void TfLiteInterpreterOptionsAddDelegate(void* options, void* delegate);
extern XnnpackOptions TfLiteXNNPackDelegateOptionsDefault(void);
extern void* TfLiteXNNPackDelegateCreate(const XnnpackOptions* options);
extern void* TfLiteInterpreterCreate(void* model, void* options);
extern int TfLiteInterpreterAllocateTensors(void* interpreter);
extern void* TfLiteInterpreterGetInputTensor(void* interpreter, int32_t index);
extern size_t TfLiteTensorByteSize(const void* tensor);
extern void* TfLiteTensorData(const void* tensor);
extern int TfLiteInterpreterInvoke(void* interpreter);

enum { WARM = 30, MOST = 2000000 };

static double seconds_of(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int main(int argc, char** argv) {
  if (argc != 4) return fprintf(stderr, "native MODEL THREADS SECONDS\n"), 2;
  int threads = atoi(argv[2]);
  double wanted = atof(argv[3]);
  void* model = TfLiteModelCreateFromFile(argv[1]);
  void* options = TfLiteInterpreterOptionsCreate();
  XnnpackOptions xnnpack = TfLiteXNNPackDelegateOptionsDefault();
  xnnpack.num_threads = threads;
  TfLiteInterpreterOptionsSetNumThreads(options, threads);
  TfLiteInterpreterOptionsAddDelegate(options, TfLiteXNNPackDelegateCreate(&xnnpack));
  void* interpreter = model ? TfLiteInterpreterCreate(model, options) : NULL;
  if (!interpreter || TfLiteInterpreterAllocateTensors(interpreter)) return fprintf(stderr, "cannot be loaded\n"), 1;
  void* input = TfLiteInterpreterGetInputTensor(interpreter, 0);
  memset(TfLiteTensorData(input), 0, TfLiteTensorByteSize(input));
  for (int run = 0; run < WARM; run++)
    if (TfLiteInterpreterInvoke(interpreter)) return fprintf(stderr, "cannot be run\n"), 1;

  double* took = malloc(MOST * sizeof *took);
  int count = 0;
  double cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID), begun = seconds_of(CLOCK_MONOTONIC), now = begun;
  while (now - begun < wanted && count < MOST) {
    TfLiteInterpreterInvoke(interpreter);
    double after = seconds_of(CLOCK_MONOTONIC);
    took[count++] = after - now;
    now = after;
  }
  cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
  printf("{\"version\": \"%s\", \"seconds\": %.6f, \"cpu_s\": %.6f, \"invoke_ms\": [", TfLiteVersion(), now - begun, cpu);
  for (int i = 0; i < count; i++) printf(i ? ", %.4f" : "%.4f", took[i] * 1e3);
  puts("]}");
  return 0;
}
