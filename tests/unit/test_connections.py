"""By what ranks are connected, in Open MPI's words and in the doctor's."""

from __future__ import annotations

from wash_hpc.parallel.connections import describe_connections, read_connections

SAID = """\
Host 0 [node1] ranks 0 - 1
Host 1 [node2] ranks 2 - 3

 host | 0   1
======|==========
    0 : sm  tcp
    1 : tcp sm

Connection summary: (pml)
  on-host:  all connections are sm
  off-host: all connections are tcp

"""


def test_the_summary_is_read_from_what_open_mpi_prints():
    assert read_connections(SAID) == {"on-host": "sm", "off-host": "tcp"}
    assert read_connections("") == {}


def test_what_no_rank_is_connected_by_is_left_out():
    alone = SAID.replace("are sm", "are self").replace("are tcp", "are n/a")
    assert read_connections(alone) == {}
    assert describe_connections({}, ["mlx5_0"]) == ("", [])


def test_tcp_across_hosts_is_warned_of_where_there_is_something_faster():
    known = read_connections(SAID)
    assert describe_connections(known, []) == ("sm in a host, tcp across", [])
    text, warnings = describe_connections(known, ["mlx5_0", "mlx5_1"])
    assert text == "sm in a host, tcp across"
    assert warnings == ["there is mlx5_0, mlx5_1, and MPI goes by tcp across hosts"]
    assert describe_connections({"off-host": "ucx"}, ["mlx5_0"]) == ("ucx across", [])
