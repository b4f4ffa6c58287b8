"""Imports every mechanism, in the order in which they are listed to users."""
# ruff: noqa: F401 -- importing a mechanism's file is what registers it

from __future__ import annotations

# The order of these lines is the order of the catalogue, so they are not to be sorted.
# isort: off
import attnsurgeon.attention.gates.se
import attnsurgeon.attention.fusions.cmpe_se
import attnsurgeon.attention.gates.ge
import attnsurgeon.attention.gates.gsop
import attnsurgeon.attention.gates.srm
import attnsurgeon.attention.convs.sk
import attnsurgeon.attention.linked.dia
import attnsurgeon.attention.gates.eca
import attnsurgeon.attention.gates.spa
import attnsurgeon.attention.gates.fca
import attnsurgeon.attention.convs.psa
import attnsurgeon.attention.gates.tse
import attnsurgeon.attention.gates.nam
import attnsurgeon.attention.gates.ran
import attnsurgeon.attention.gates.sge
import attnsurgeon.attention.gates.ulsam
import attnsurgeon.attention.gates.scse
import attnsurgeon.attention.gates.bam
import attnsurgeon.attention.gates.sa
import attnsurgeon.attention.gates.triplet
import attnsurgeon.attention.gates.cbam
import attnsurgeon.attention.convs.sc
import attnsurgeon.attention.gates.coord
import attnsurgeon.attention.gates.simam
import attnsurgeon.attention.linked.dca
import attnsurgeon.attention.weights.we
import attnsurgeon.attention.activations.atac
import attnsurgeon.attention.fusions.aff
import attnsurgeon.attention.fusions.iaff
import attnsurgeon.attention.weights.aw
import attnsurgeon.attention.gates.ba2m
import attnsurgeon.attention.heads.interflow
import attnsurgeon.attention.heads.csra
import attnsurgeon.attention.gates.crisscross
import attnsurgeon.attention.gates.s2
import attnsurgeon.attention.gates.soca
import attnsurgeon.attention.gates.gam
import attnsurgeon.attention.gates.ese
import attnsurgeon.attention.gates.gct
import attnsurgeon.attention.gates.gc
import attnsurgeon.attention.gates.nl
import attnsurgeon.attention.gates.generalized
import attnsurgeon.attention.gates.a2
import attnsurgeon.attention.gates.bat
import attnsurgeon.attention.gates.danet
import attnsurgeon.attention.gates.external
import attnsurgeon.attention.gates.lka
import attnsurgeon.attention.gates.ela
import attnsurgeon.attention.gates.mlca
import attnsurgeon.attention.gates.mca
import attnsurgeon.attention.gates.ema
import attnsurgeon.attention.gates.polarized
import attnsurgeon.attention.activations.dyrelu
import attnsurgeon.attention.activations.frelu
import attnsurgeon.attention.activations.acon
import attnsurgeon.attention.convs.cot
import attnsurgeon.attention.convs.splat
import attnsurgeon.attention.convs.involution
import attnsurgeon.attention.convs.bot
import attnsurgeon.attention.convs.halo
import attnsurgeon.attention.convs.lambda_layer
import attnsurgeon.attention.weights.odconv
import attnsurgeon.attention.weights.dyconv
import attnsurgeon.attention.weights.condconv
import attnsurgeon.attention.gates.attention_gate
