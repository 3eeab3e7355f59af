"""Numbers and names that Flower gives to errors, tasks and the coordinator's own node."""

from flwr.common.constant import SUPERLINK_NODE_ID as SUPERLINK_NODE_ID
from flwr.common.constant import ErrorCode as ErrorCode
from flwr.supercore.constant import TaskType as TaskType
