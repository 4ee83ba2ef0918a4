"""How a module becomes fused calls: tracing, matching, folding, packing, and watching for changes.

trace -> links -> match -> spec          what the forward is made of
fold, guard, module                      its weights, their cache, and the switch
"""
