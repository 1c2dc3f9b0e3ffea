# theria_cuda_variants(DEFINITIONS FOLDER OUT_SOURCES)
#
# Writes one instantiation file for each kind, arithmetic and dim of variants.def, and the table of
# them all, into FOLDER.
function(theria_cuda_variants definitions folder out_sources)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${definitions})
  set(names_float16 Float16)
  set(names_bfloat16 BFloat16)
  set(names_tf32 Tf32)
  set(names_float32 Float32)
  set(names_float64 Float64)
  set(kinds_forward Forward)
  set(kinds_jvp Jvp)
  set(kinds_vjp_queries VjpQueries)
  set(kinds_vjp_keys VjpKeys)
  set(kinds_hvp_queries HvpQueries)
  set(kinds_hvp_keys HvpKeys)
  # The variants of each kind: general or not, and the tangents.
  set(forms_forward "false kAll" "true kAll")
  set(forms_vjp_queries ${forms_forward})
  set(forms_vjp_keys ${forms_forward})
  set(forms_jvp "false kAll" "true kSome")
  set(forms_hvp_queries "false kAll" "false kInputs" "true kSome")
  set(forms_hvp_keys ${forms_hvp_queries})

  set(sources "")
  set(declarations "")
  set(entries "")
  set(statistics "")
  set(arithmetics "")
  file(STRINGS ${definitions} lines REGEX "^[a-z]")
  foreach(line IN LISTS lines)
    if(NOT line MATCHES "^([a-z0-9]+) +([a-z_ ]+) : ([0-9 ]+)$")
      message(FATAL_ERROR "${definitions}: cannot read '${line}'")
    endif()
    set(arithmetic ${CMAKE_MATCH_1})
    separate_arguments(kinds UNIX_COMMAND "${CMAKE_MATCH_2}")
    separate_arguments(dims UNIX_COMMAND "${CMAKE_MATCH_3}")
    set(enumerator Arithmetic::k${names_${arithmetic}})
    if(NOT arithmetic IN_LIST arithmetics)
      list(APPEND arithmetics ${arithmetic})
    endif()
    foreach(kind IN LISTS kinds)
      foreach(dim IN LISTS dims)
        set(body "")
        set(index 0)
        foreach(form IN LISTS forms_${kind})
          separate_arguments(parts UNIX_COMMAND "${form}")
          list(GET parts 0 general)
          list(GET parts 1 tangents)
          set(name sm80_${kind}_${arithmetic}_d${dim})
          if(general)
            string(APPEND name _general)
          elseif(tangents STREQUAL "kInputs")
            string(APPEND name _inputs)
          endif()
          set(symbol k${kinds_${kind}}${names_${arithmetic}}D${dim}V${index})
          string(APPEND body
            "extern const KernelVariant ${symbol};\n"
            "const KernelVariant ${symbol} = MakeVariant<${enumerator},\n"
            "    KernelKind::k${kinds_${kind}}, ${dim}, ${general}, TangentSet::${tangents}>(\n"
            "    \"${name}\");\n")
          string(APPEND declarations "extern const KernelVariant ${symbol};\n")
          string(APPEND entries "      ${symbol},\n")
          math(EXPR index "${index} + 1")
        endforeach()
        set(source ${folder}/${kind}_${arithmetic}_${dim}.cu)
        file(CONFIGURE OUTPUT ${source} @ONLY CONTENT
"// Generated from variants.def.
#include \"kernels/cuda/attention/instantiate.cuh\"

namespace theria::cuda {
${body}}  // namespace theria::cuda
")
        list(APPEND sources ${source})
      endforeach()
    endforeach()
  endforeach()
  foreach(arithmetic IN LISTS arithmetics)
    set(enumerator Arithmetic::k${names_${arithmetic}})
    string(APPEND statistics
      "      {${enumerator}, reinterpret_cast<const void*>(\n"
      "          &StatisticsKernel<MmaOf<${enumerator}>::Type>)},\n")
  endforeach()
  file(CONFIGURE OUTPUT ${folder}/table.cu @ONLY CONTENT
"// Generated from variants.def.
#include \"kernels/cuda/attention/instantiate.cuh\"
#include \"kernels/cuda/variant_table.h\"

namespace theria::cuda {
${declarations}
std::vector<KernelVariant> CompiledKernels() {
  return {
${entries}  };
}

std::vector<StatisticsVariant> CompiledStatistics() {
  return {
${statistics}  };
}
}  // namespace theria::cuda
")
  set(${out_sources} ${sources} ${folder}/table.cu PARENT_SCOPE)
endfunction()
