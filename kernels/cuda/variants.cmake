# theria_cuda_variants(DEFINITIONS FOLDER GENERATIONS)
#
# Writes one instantiation file for each arithmetic, dim and kind of variants.def, or kinds that it
# joins by commas, and the table of them all, into FOLDER. Sets SM80_SOURCES (the table among them) and SM90A_SOURCES in the caller.
# Generations that GENERATIONS does not name are left out.
function(theria_cuda_variants definitions folder generations)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${definitions})
  set(names_float16 Float16)
  set(names_bfloat16 BFloat16)
  set(names_tf32 Tf32)
  set(names_float32 Float32)
  set(names_float64 Float64)
  set(names_forward Forward)
  set(names_jvp Jvp)
  set(names_vjp_queries VjpQueries)
  set(names_vjp_keys VjpKeys)
  set(names_vjp Vjp)
  set(names_hvp_queries HvpQueries)
  set(names_hvp_keys HvpKeys)
  set(add_sm80 AddVariants)
  set(add_sm90a sm90a::AddVariants)
  set(add_extended AddExtendedVariants)
  set(headers_sm80 kernels/cuda/attention/instantiate.cuh)
  set(headers_sm90a kernels/cuda/attention/sm90a/instantiate.cuh)
  set(headers_extended ${headers_sm80})
  set(sources_sm80 "")
  set(sources_sm90a "")
  set(sources_extended "")

  set(declarations "")
  set(calls "")
  set(statistics "")
  set(arithmetics "")
  file(STRINGS ${definitions} lines REGEX "^[a-z]")
  foreach(line IN LISTS lines)
    if(NOT line MATCHES "^([a-z]+[0-9]*a?) +([a-z0-9]+) +([a-z_, ]+) : ([0-9 ]+)$")
      message(FATAL_ERROR "${definitions}: cannot read '${line}'")
    endif()
    set(generation ${CMAKE_MATCH_1})
    set(arithmetic ${CMAKE_MATCH_2})
    separate_arguments(kinds UNIX_COMMAND "${CMAKE_MATCH_3}")
    separate_arguments(dims UNIX_COMMAND "${CMAKE_MATCH_4}")
    if(NOT generation IN_LIST generations)
      continue()
    endif()
    set(enumerator Arithmetic::k${names_${arithmetic}})
    if(NOT arithmetic IN_LIST arithmetics)
      list(APPEND arithmetics ${arithmetic})
    endif()
    foreach(group IN LISTS kinds)
      string(REPLACE "," "_" name ${group})
      string(REPLACE "," ";" members ${group})
      foreach(dim IN LISTS dims)
        set(function Add_${generation}_${name}_${arithmetic}_${dim})
        set(source ${folder}/${generation}_${name}_${arithmetic}_${dim}.cu)
        set(body "")
        foreach(kind IN LISTS members)
          string(APPEND body
            "  ${add_${generation}}<${enumerator}, KernelKind::k${names_${kind}}, ${dim}>(table);\n")
        endforeach()
        file(CONFIGURE OUTPUT ${source} @ONLY CONTENT
"// Generated from variants.def.
#include \"${headers_${generation}}\"

namespace theria::cuda {
void ${function}(KernelTable* table) {
${body}}
}  // namespace theria::cuda
")
        list(APPEND sources_${generation} ${source})
        string(APPEND declarations "void ${function}(KernelTable* table);\n")
        string(APPEND calls "  ${function}(table);\n")
      endforeach()
    endforeach()
  endforeach()
  foreach(arithmetic IN LISTS arithmetics)
    set(enumerator Arithmetic::k${names_${arithmetic}})
    string(APPEND statistics
      "    case ${enumerator}:\n"
      "      return reinterpret_cast<const void*>(\n"
      "          &StatisticsKernel<MmaOf<${enumerator}>::Type>);\n")
  endforeach()
  file(CONFIGURE OUTPUT ${folder}/table.cu @ONLY CONTENT
"// Generated from variants.def.
#include \"kernels/cuda/attention/mma_of.cuh\"
#include \"kernels/cuda/attention/statistics.cuh\"
#include \"kernels/cuda/compiled_kernel.h\"

namespace theria::cuda {
${declarations}
void AddCompiledKernels(KernelTable* table) {
${calls}}

const void* FindStatisticsKernel(Arithmetic arithmetic) {
  switch (arithmetic) {
${statistics}    default:
      return nullptr;
  }
}
}  // namespace theria::cuda
")
  set(SM80_SOURCES ${sources_sm80} ${sources_extended} ${folder}/table.cu PARENT_SCOPE)
  set(SM90A_SOURCES ${sources_sm90a} PARENT_SCOPE)
endfunction()

# theria_cuda_tuning(TABLES FOLDER)
#
# Writes FOLDER/kernels/cuda/tuning_tables.h: the text of the files TABLES, each named after its GPU
# with '_' for spaces.
function(theria_cuda_tuning tables folder)
  set(entries "")
  foreach(table IN LISTS tables)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${table})
    get_filename_component(gpu ${table} NAME_WE)
    string(REPLACE "_" " " gpu ${gpu})
    file(READ ${table} text)
    string(APPEND entries "    {\"${gpu}\", R\"table(${text})table\"},\n")
  endforeach()
  file(CONFIGURE OUTPUT ${folder}/kernels/cuda/tuning_tables.h @ONLY CONTENT
"// Generated from kernels/cuda/tuning.
#include <string_view>

namespace theria::cuda {
struct TuningTable {
  std::string_view gpu, text;
};
inline constexpr TuningTable kTuningTables[] = {
${entries}};
}  // namespace theria::cuda
")
endfunction()
