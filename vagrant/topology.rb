# The machines, from the same file as `tortie lab`: agent/lab/topology.json.

require "ipaddr"
require "json"

module Topology
  FACTS = JSON.parse(File.read(File.expand_path("../agent/lab/topology.json", __dir__)))
  SEGMENTS = FACTS["segments"].map { |segment| segment["ipv4"] }

  # An address of a segment and its length, such as 172.26.0.11/20.
  def self.address(segment, offset)
    first, length = SEGMENTS[segment].split("/")
    IPAddr.new(IPAddr.new(first).to_i + offset, Socket::AF_INET).to_s + "/" + length
  end

  # The segment of the node of this number (1, 2, 3, ...): they take turns.
  def self.segment(number)
    (number - 1) % SEGMENTS.size
  end

  # Name -> segment and address, of every node.
  def self.nodes
    (1..FACTS["virtual_machines"]).to_h do |number|
      address = address(segment(number), FACTS["first_node_offset"] + number)
      ["node#{number}", { "segment" => segment(number), "address" => address }]
    end
  end

  # The router's address on each segment.
  def self.router
    SEGMENTS.each_index.map { |segment| address(segment, FACTS["router_offset"]) }
  end

  # Where every node finds the datastore: on the first of them.
  def self.etcd
    "http://#{nodes["node1"]["address"].split("/").first}:#{FACTS["etcd_port"]}"
  end
end

puts JSON.generate(nodes: Topology.nodes, router: Topology.router, etcd: Topology.etcd) if $PROGRAM_NAME == __FILE__
