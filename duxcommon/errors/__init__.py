"""Every error that a user or a caller can see: one class each, with a stable code and name, in the module of its part.

Codes: 1000s common (1100s the coin), 2000s flopd, 3000s escrowd, 4000s taskd (4500s sandbox), 5000s registryd
(5500s store), 6000s airdropd, 8000s setting up. A class says what to do now (`hint_default`) and whether trying again
can help (`retry`).
Import them from here: `from duxcommon.errors import NotFound`.
"""

from .airdropd import *
from .base import *
from .coin import *
from .common import *
from .escrowd import *
from .flopd import *
from .governance import *
from .registryd import *
from .sandbox import *
from .setup import *
from .store import *
from .taskd import *
