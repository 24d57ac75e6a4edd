/* An external TFLite delegate for tests: it claims the custom op "edgetpu-custom-op", computes a softmax in its place,
 * and works, hangs, crashes or answers rubbish as a file says, which it reads before each run.
 *
 * The file is named by the option "command" or by $DELEGATE_COMMAND; its first letter counts:
 *   w  works (also: no file)      h  hangs       c  crashes (SIGSEGV)     r  answers rubbish     f  the run fails
 *   n  no such device: creating fails            H  creating hangs        p  preparing fails
 * Once it hangs there is a file of that name with ".hung" behind it.
 *
 * The structs repeat, as far as they are used here, the C interface of TensorFlow Lite 2.14 and later (core/c/common.h);
 * tflite_plugin_create_delegate and tflite_plugin_destroy_delegate are those of an external delegate
 * (delegates/external/external_delegate_interface.h).
 */
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, ERROR = 1, FLOAT32 = 1, INT8 = 9, ALLOW_DYNAMIC_TENSORS = 1, PATH = 4096 };

typedef struct { int size; int data[]; } IntArray;
typedef struct { int type; union { float *f; int8_t *i8; void *raw; } data; IntArray *dims; float scale; int32_t zero_point;
                 int allocation_type; size_t bytes; const void *allocation; const char *name; void *delegate;
                 int buffer_handle; _Bool stale, variable; struct { int type; void *params; } quantization;
                 void *sparsity; const IntArray *dims_signature; } Tensor;
typedef struct { IntArray *inputs, *outputs; } Node; /* what follows is not used */
typedef struct Context Context;
typedef struct Registration {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *operator_, *async_kernel;
  uint64_t inplace;
} Registration;
typedef struct Delegate {
  void *data;
  int (*prepare)(Context *, struct Delegate *);
  void *copy_from, *copy_to, *free_buffer;
  int64_t flags;
  void *builder;
} Delegate;
struct Context {
  size_t tensors_size;
  int (*plan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl, *resize_tensor;
  void (*report_error)(Context *, const char *, ...);
  void *add_tensors;
  int (*node)(Context *, int, Node **, Registration **);
  int (*replace)(Context *, Registration, const IntArray *, Delegate *);
};

static char command_path[PATH];

static char command(void) {
  FILE *file = command_path[0] ? fopen(command_path, "r") : NULL;
  int letter = file ? fgetc(file) : 'w';
  if (file) fclose(file);
  return letter == EOF ? 'w' : (char)letter;
}

static void hang(void) {
  char path[PATH + 8];
  snprintf(path, sizeof path, "%s.hung", command_path);
  FILE *file = fopen(path, "w");
  if (file) fclose(file);
  for (;;) pause();
}

static void softmax(const Tensor *in, Tensor *out, int rubbish) {
  size_t count = in->bytes / (in->type == FLOAT32 ? sizeof(float) : 1);
  float sum = 0, *e = malloc(count * sizeof *e);
  for (size_t i = 0; i < count; i++) {
    e[i] = expf(in->type == FLOAT32 ? in->data.f[i] : (in->data.i8[i] - in->zero_point) * in->scale);
    sum += e[i];
  }
  for (size_t i = 0; i < count; i++) {
    float p = rubbish ? (i == count - 1) : e[i] / sum; /* always sure of the last class */
    if (out->type == FLOAT32) { out->data.f[i] = p; continue; }
    float q = roundf(p / out->scale) + (float)out->zero_point;
    out->data.i8[i] = (int8_t)fminf(127, fmaxf(-128, q));
  }
  free(e);
}

static int kernel_prepare(Context *context, Node *node) { (void)context, (void)node; return OK; }

static int kernel_invoke(Context *context, Node *node) {
  char letter = command();
  if (letter == 'h') hang();
  if (letter == 'c') raise(SIGSEGV);
  if (letter == 'f') { context->report_error(context, "the device does not answer\n"); return ERROR; }
  softmax(&context->tensors[node->inputs->data[0]], &context->tensors[node->outputs->data[0]], letter == 'r');
  return OK;
}

static int delegate_prepare(Context *context, Delegate *delegate) {
  IntArray *plan, *claimed;
  if (command() == 'p') { context->report_error(context, "compiled for another device\n"); return ERROR; }
  if (context->plan(context, &plan) != OK) return ERROR;
  claimed = calloc(1, sizeof(int) * (size_t)(plan->size + 1));
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *registration;
    if (context->node(context, plan->data[i], &node, &registration) != OK) return ERROR;
    if (registration->custom_name && !strcmp(registration->custom_name, "edgetpu-custom-op"))
      claimed->data[claimed->size++] = plan->data[i];
  }
  Registration kernel = {.prepare = kernel_prepare, .invoke = kernel_invoke, .custom_name = "test-delegate", .version = 1};
  int status = context->replace(context, kernel, claimed, delegate);
  free(claimed);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  const char *named = getenv("DELEGATE_COMMAND");
  for (size_t i = 0; i < count; i++)
    if (!strcmp(keys[i], "command")) named = values[i];
  snprintf(command_path, sizeof command_path, "%s", named ? named : "");
  char letter = command();
  if (letter == 'H') hang();
  if (letter == 'n') { report("no such device"); return NULL; }
  Delegate *delegate = calloc(1, sizeof *delegate);
  delegate->prepare = delegate_prepare;
  delegate->flags = ALLOW_DYNAMIC_TENSORS;
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
