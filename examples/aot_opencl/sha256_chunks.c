/* SHA-256 of each CHUNK_SIZE bytes of a file, by a kernel that integrity-triton exported:

     integrity-triton aot sha256 xpu -o kernels --kernel hash_messages \
         --where TABLE=false --where FINAL=true --where ALIGN=1
     cc -O2 -o sha256_chunks sha256_chunks.c -lOpenCL
     sidecar=$(echo kernels/hash_messages-*.json)
     ./sha256_chunks "${sidecar%.json}" FILE CHUNK_SIZE

   where the first argument is the sidecar's path without .json. All that the program knows of the
   kernel beside its arguments' names is read from the sidecar. The device must read host memory in
   place (fine-grain system SVM), as CPUs do. */
#define CL_TARGET_OPENCL_VERSION 300
#if __has_include(<CL/cl.h>)
#include <CL/cl.h>
#else
#include "opencl_subset.h"
#endif
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS = 8, BLOCK = 64, MINIMUM_PADDING = 9, MOST_DEVICES = 16 };

static void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("sha256_chunks: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(2);
}

static void check(cl_int status, const char *what) {
    if (status != CL_SUCCESS) fail("%s failed with status %d", what, (int)status);
}

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail("%s cannot be opened", path);
    if (fseek(file, 0, SEEK_END) != 0) fail("%s is no regular file", path);
    long end = ftell(file);
    rewind(file);
    if (end < 0) fail("%s is no regular file", path);
    char *data = calloc((size_t)end + 1, 1);
    if (data == NULL || fread(data, 1, (size_t)end, file) != (size_t)end) fail("%s cannot be read", path);
    fclose(file);
    *size = (size_t)end;
    return data;
}

/* What follows "NAME": in a sidecar; sidecars have one member a line and no name twice. */
static const char *member(const char *sidecar, const char *name) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    const char *found = strstr(sidecar, quoted);
    if (found == NULL) fail("the sidecar has no %s", name);
    found += strlen(quoted);
    return found + strspn(found, " ");
}

static size_t number(const char *sidecar, const char *name) {
    return (size_t)strtoull(member(sidecar, name), NULL, 10);
}

static void expect(const char *sidecar, const char *name, const char *value) {
    const char *found = member(sidecar, name);
    if (strncmp(found, value, strlen(value)) != 0) fail("the kernel's %s is not %s", name, value);
}

/* The arguments in the order in which the kernel is documented to take them. */
static void expect_arguments(const char *sidecar) {
    static const char *const names[] = {"table_ptr", "state_ptr", "constants_ptr", "out_ptr", "address",
                                        "count",     "stride",    "length",        "total",   "prefix",
                                        "step",      "padding",   "minimum_padding", "flags"};
    const char *at = member(sidecar, "arguments");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        at = member(at, "name");
        if (strncmp(at + 1, names[i], strlen(names[i])) != 0) fail("argument %zu is not %s", i, names[i]);
    }
}

static cl_device_id find_device(void) {
    cl_platform_id platforms[MOST_DEVICES];
    cl_device_id devices[MOST_DEVICES];
    cl_uint platform_count = 0, device_count = 0;
    check(clGetPlatformIDs(MOST_DEVICES, platforms, &platform_count), "clGetPlatformIDs");
    for (cl_uint p = 0; p < platform_count && p < MOST_DEVICES; p++) {
        if (clGetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, MOST_DEVICES, devices, &device_count) != CL_SUCCESS)
            continue;
        for (cl_uint d = 0; d < device_count && d < MOST_DEVICES; d++) {
            uint64_t svm = 0;
            if (clGetDeviceInfo(devices[d], CL_DEVICE_SVM_CAPABILITIES, sizeof svm, &svm, NULL) == CL_SUCCESS &&
                (svm & CL_DEVICE_SVM_FINE_GRAIN_SYSTEM))
                return devices[d];
        }
    }
    fail("no OpenCL device reads host memory in place");
    return NULL;
}

typedef struct {
    cl_command_queue queue;
    cl_kernel kernel;
    size_t lanes, threads, local_bytes;
} Hasher;

static Hasher load(const char *stem) {
    char path[4096];
    size_t sidecar_size, binary_size;
    snprintf(path, sizeof path, "%s.json", stem);
    char *sidecar = read_file(path, &sidecar_size);
    snprintf(path, sizeof path, "%s.spv", stem);
    char *binary = read_file(path, &binary_size);
    expect(sidecar, "binary", "\"spv\"");
    expect(sidecar, "TABLE", "false");
    expect(sidecar, "FINAL", "true");
    expect(sidecar, "ALIGN", "1");
    expect_arguments(sidecar);

    Hasher hasher = {NULL, NULL, number(sidecar, "lanes_per_program"), number(sidecar, "threads_per_program"), 0};
    const char *trailing = member(sidecar, "trailing_arguments");
    if (strncmp(trailing, "[]", 2) != 0) hasher.local_bytes = number(trailing, "bytes");

    char entry[256], log[4096] = "";
    const char *name = member(sidecar, "entry");
    if (sscanf(name, "\"%255[^\"]\"", entry) != 1) fail("the sidecar's entry is no name");
    cl_int status;
    cl_device_id device = find_device();
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &status);
    check(status, "clCreateContext");
    hasher.queue = clCreateCommandQueueWithProperties(context, device, NULL, &status);
    check(status, "clCreateCommandQueueWithProperties");
    cl_program program = clCreateProgramWithIL(context, binary, binary_size, &status);
    check(status, "clCreateProgramWithIL");
    if (clBuildProgram(program, 1, &device, NULL, NULL, NULL) != CL_SUCCESS) {
        clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log, NULL);
        fail("the kernel does not build: %s", log);
    }
    hasher.kernel = clCreateKernel(program, entry, &status);
    check(status, "clCreateKernel");
    free(sidecar);
    free(binary);
    return hasher;
}

/* SHA-256 of each chunk of data, as 32 bytes a chunk at out. */
static void hash_chunks(Hasher *hasher, const char *data, size_t size, size_t chunk, uint32_t *out) {
    /* FIPS 180-4, section 5.3.3 */
    static const uint32_t initial[WORDS] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                            0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};
    /* Section 4.2.2 */
    static const uint32_t constants[64] = {
        0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
        0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
        0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
        0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
        0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
        0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
        0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
        0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2};
    static const int64_t no_table = 0;
    uint32_t state[WORDS];
    memcpy(state, initial, sizeof state);
    int64_t count = (int64_t)((size + chunk - 1) / chunk);
    int64_t integers[] = {(int64_t)(intptr_t)data, count, (int64_t)chunk, (int64_t)chunk, (int64_t)size,
                          0, BLOCK, 0, MINIMUM_PADDING, 0};

    cl_uint i = 0;
    check(clSetKernelArgSVMPointer(hasher->kernel, i++, &no_table), "setting table_ptr");
    check(clSetKernelArgSVMPointer(hasher->kernel, i++, state), "setting state_ptr");
    check(clSetKernelArgSVMPointer(hasher->kernel, i++, constants), "setting constants_ptr");
    check(clSetKernelArgSVMPointer(hasher->kernel, i++, out), "setting out_ptr");
    for (size_t k = 0; k < sizeof integers / sizeof *integers; k++)
        check(clSetKernelArg(hasher->kernel, i++, sizeof integers[k], &integers[k]), "setting an integer");
    if (hasher->local_bytes) check(clSetKernelArg(hasher->kernel, i++, hasher->local_bytes, NULL), "local memory");
    /* The messages are reached through an address, not through an argument that the driver sees. */
    cl_bool all_memory = CL_TRUE;
    check(clSetKernelExecInfo(hasher->kernel, CL_KERNEL_EXEC_INFO_SVM_FINE_GRAIN_SYSTEM, sizeof all_memory,
                              &all_memory),
          "clSetKernelExecInfo");
    size_t programs = ((size_t)count + hasher->lanes - 1) / hasher->lanes;
    size_t threads = programs * hasher->threads;
    check(clEnqueueNDRangeKernel(hasher->queue, hasher->kernel, 1, NULL, &threads, &hasher->threads, 0, NULL, NULL),
          "clEnqueueNDRangeKernel");
    check(clFinish(hasher->queue), "clFinish");
}

static void self_test(Hasher *hasher) {
    /* NIST, SHA-256 example of one block. */
    static const unsigned char expected[32] = {
        0xBA, 0x78, 0x16, 0xBF, 0x8F, 0x01, 0xCF, 0xEA, 0x41, 0x41, 0x40, 0xDE, 0x5D, 0xAE, 0x22, 0x23,
        0xB0, 0x03, 0x61, 0xA3, 0x96, 0x17, 0x7A, 0x9C, 0xB4, 0x10, 0xFF, 0x61, 0xF2, 0x00, 0x15, 0xAD};
    uint32_t digest[WORDS];
    hash_chunks(hasher, "abc", 3, 3, digest);
    if (memcmp(digest, expected, sizeof expected) != 0) fail("the kernel gives a wrong digest of \"abc\"");
}

int main(int argc, char **argv) {
    if (argc != 4 || strtoull(argv[3], NULL, 10) == 0) fail("usage: sha256_chunks KERNEL FILE CHUNK_SIZE");
    size_t size, chunk = (size_t)strtoull(argv[3], NULL, 10);
    Hasher hasher = load(argv[1]);
    self_test(&hasher);
    char *data = read_file(argv[2], &size);
    size_t count = (size + chunk - 1) / chunk;
    if (count == 0) return 0;
    uint32_t *digests = malloc(count * WORDS * sizeof *digests);
    if (digests == NULL) fail("out of memory");
    hash_chunks(&hasher, data, size, chunk, digests);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < WORDS * sizeof *digests; k++) printf("%02x", ((unsigned char *)&digests[i * WORDS])[k]);
        putchar('\n');
    }
    free(digests);
    free(data);
    return 0;
}
