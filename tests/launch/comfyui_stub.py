"""The part of ComfyUI that the node pack uses, by its documented conventions: how it loads a pack, what it gives a node, how it
runs a graph. scripts/check_comfyui.py runs the same graphs in ComfyUI itself."""

import importlib.util
import inspect
import os
import sys
import types

SIMPLE = ("INT", "FLOAT", "STRING", "BOOLEAN")


class InterruptProcessingException(Exception):
    pass


class Stub:
    """What the nodes have shown, and whether the user has interrupted them."""

    def __init__(self):
        self.shown = []  # (step, total, picture) of all bars
        self.interrupt = lambda: False


def install(folder):
    """Puts stand-ins for ComfyUI's modules where `import` finds them; outputs go to `folder`."""
    stub = Stub()

    def module(name, **content):
        sys.modules[name] = types.ModuleType(name)
        for key, value in content.items():
            setattr(sys.modules[name], key, value)
        return sys.modules[name]

    class ProgressBar:
        def __init__(self, total, node_id=None):
            self.total = total

        def update_absolute(self, value, total=None, preview=None):
            stub.shown.append((value, total or self.total, preview))

    def throw_exception_if_processing_interrupted():
        if stub.interrupt():
            raise InterruptProcessingException()

    def get_save_image_path(prefix, output, width=0, height=0):
        subfolder, name = os.path.split(prefix)
        place = os.path.join(output, subfolder)
        os.makedirs(place, exist_ok=True)
        return place, name, len(os.listdir(place)) + 1, subfolder, prefix

    class VideoFromFile:
        def __init__(self, path):
            self.path = path

    class Picture:
        def __init__(self, stream):
            self.content = stream.read()

        def convert(self, mode):
            return self

    management = module("comfy.model_management", throw_exception_if_processing_interrupted=throw_exception_if_processing_interrupted,
                        processing_interrupted=lambda: stub.interrupt())
    utils = module("comfy.utils", ProgressBar=ProgressBar)
    module("comfy", model_management=management, utils=utils)
    module("folder_paths", get_output_directory=lambda: os.path.join(folder, "output"), get_temp_directory=lambda: os.path.join(folder, "temp"),
           get_folder_paths=lambda kind: [os.path.join(folder, "models", kind)], get_save_image_path=get_save_image_path)
    module("comfy_api")
    module("comfy_api.latest", InputImpl=types.SimpleNamespace(VideoFromFile=VideoFromFile))
    module("PIL", Image=types.SimpleNamespace(open=Picture))
    return stub


def load(pack):
    """A pack, loaded as ComfyUI does: a package named by its path, which has no package above it."""
    name = pack.replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, os.path.join(pack, "__init__.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def fields_of(node):
    """Name, type, options and whether it may be left out, of each input."""
    for part in ("required", "optional"):
        for name, spec in node.INPUT_TYPES().get(part, {}).items():
            yield name, spec[0], spec[1] if len(spec) > 1 else {}, part == "optional"


class PreviewAny:
    """ComfyUI's own node that shows any result as text."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("STRING",)
    FUNCTION = "main"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source": ("*", {})}}

    def main(self, source):
        return {"ui": {"text": (str(source),)}, "result": (str(source),)}


NODES = {"PreviewAny": PreviewAny}


def is_socket(kind):
    return isinstance(kind, str) and kind not in SIMPLE


def faults_of(node):
    """What ComfyUI would stumble over in a class."""
    run = getattr(node, node.FUNCTION, None)
    if run is None:
        return ["no method " + node.FUNCTION]
    taken, named = inspect.signature(run).parameters, [name for name, *_ in fields_of(node)]
    faults = ["{} is no parameter of {}".format(name, node.FUNCTION) for name in named if name not in taken]
    faults += ["{} is no field".format(name) for name in taken if name != "self" and name not in named]
    if len(node.RETURN_TYPES) != len(node.RETURN_NAMES):
        faults.append("as many names as types of results")
    for name, kind, options, _ in fields_of(node):
        default = options.get("default")
        if isinstance(kind, list) and default not in kind:
            faults.append("{} is no choice of {}".format(default, name))
        if not is_socket(kind) and default is None and not isinstance(kind, list) and kind != "INT":
            faults.append("{} has no default".format(name))
    return faults


def faults_of_graph(graph, nodes):
    """What ComfyUI would refuse of a workflow in the API's format."""
    for number, one in graph.items():
        node = nodes[one["class_type"]]
        fields = {name: (kind, options, may_miss) for name, kind, options, may_miss in fields_of(node)}
        yield from ("{}: no field {}".format(number, name) for name in one["inputs"] if name not in fields)
        for name, (kind, options, may_miss) in fields.items():
            where = "{}.{}".format(one["class_type"], name)
            if name not in one["inputs"]:
                if not may_miss:
                    yield where + " is missing"
                continue
            value = one["inputs"][name]
            if isinstance(value, list):
                given = nodes[graph[value[0]]["class_type"]].RETURN_TYPES[value[1]]
                if kind != "*" and given not in kind.split(","):
                    yield "{} takes {}, not {}".format(where, kind, given)
            elif isinstance(kind, list):
                if value not in kind:
                    yield "{}: {} is no choice".format(where, value)
            elif not isinstance(value, {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}[kind]):
                yield "{}: {} is no {}".format(where, value, kind)
            elif kind in ("INT", "FLOAT") and not options.get("min", value) <= value <= options.get("max", value):
                yield "{}: {} is out of range".format(where, value)


def api_of(workflow, nodes):
    """A workflow of the user interface in the API's format, as ComfyUI's page converts it."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for one in workflow["nodes"]:
        links = {entry["name"]: sources[entry["link"]] for entry in one["inputs"] if entry["link"] is not None}
        values, inputs = list(one["widgets_values"]), {}
        for name, kind, options, _ in fields_of(nodes[one["type"]]):
            if is_socket(kind):
                if name in links:
                    inputs[name] = links[name]
                continue
            inputs[name] = values.pop(0)
            if options.get("control_after_generate"):
                values.pop(0)
        assert not values, "{} values too many for {}".format(len(values), one["type"])
        graph[str(one["id"])] = {"class_type": one["type"], "inputs": inputs}
    return graph


def execute(graph, nodes):
    """What each node of a graph gives, in an order in which each has what it needs."""
    done, shown = {}, {}

    def result_of(number):
        if number not in done:
            node = nodes[graph[number]["class_type"]]
            inputs = {name: result_of(value[0])[value[1]] if isinstance(value, list) else value for name, value in graph[number]["inputs"].items()}
            given = getattr(node(), node.FUNCTION)(**inputs)
            if isinstance(given, dict):
                shown[number], given = given.get("ui"), given["result"]
            done[number] = given
        return done[number]

    for number, one in graph.items():
        if getattr(nodes[one["class_type"]], "OUTPUT_NODE", False):
            result_of(number)
    return done, shown
